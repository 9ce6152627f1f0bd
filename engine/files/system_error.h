// The one form of messages about files: the file, then what was tried and the system's reason, or what is wrong in it.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace sinkscope {

/// Throws std::runtime_error "PATH: cannot ACTION: REASON", where `error` is an errno.
[[noreturn]] void throw_system_error(const std::filesystem::path& path, std::string_view action, int error);

/// Throws std::runtime_error "PATH: PROBLEM".
[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& problem);

}  // namespace sinkscope
