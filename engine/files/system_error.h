// The one form of this folder's messages: file, what was tried, the system's reason.
#pragma once

#include <filesystem>
#include <string_view>

namespace sinkscope {

/// Throws std::runtime_error "PATH: cannot ACTION: REASON", where `error` is an errno.
[[noreturn]] void throw_system_error(const std::filesystem::path& path, std::string_view action, int error);

}  // namespace sinkscope
