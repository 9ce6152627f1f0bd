// Where what can be made again is kept between runs.
#pragma once

#include <filesystem>
#include <string>

namespace sinkscope {

/// An environment variable; empty where it is not set.
std::string environment(const char* name);

/// The user's: $XDG_CACHE_HOME/sinkscope, else $HOME/.cache/sinkscope; empty where neither is set.
std::filesystem::path user_cache_folder();

}  // namespace sinkscope
