// Changes to the names in folders, and making them last. Every error is a std::runtime_error naming
// the file or folder.
#pragma once

#include <filesystem>

namespace sinkscope {

/// Makes the names in a folder durable (fsync of the folder); an empty path is the working folder.
void sync_folder(const std::filesystem::path& folder);

/// Renames a file or folder to a name in the same folder, replacing a file there in one step.
void rename_over(const std::filesystem::path& from, const std::filesystem::path& to);

/// Renames a file or folder to a name in the same folder. Throws "TO: exists already" rather than
/// replace anything.
void rename_to_new(const std::filesystem::path& from, const std::filesystem::path& to);

/// Throws "PATH: exists already" followed by `advice` when anything, a dangling link included, is there.
void require_absent(const std::filesystem::path& path, const char* advice = "");

}  // namespace sinkscope
