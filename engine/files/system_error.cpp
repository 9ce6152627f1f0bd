#include "engine/files/system_error.h"

#include <stdexcept>
#include <string>
#include <system_error>

namespace sinkscope {

void throw_system_error(const std::filesystem::path& path, std::string_view action, int error) {
  std::string message = path.string();
  message.append(": cannot ").append(action).append(": ").append(std::generic_category().message(error));
  throw std::runtime_error(message);
}

void refuse(const std::filesystem::path& path, const std::string& problem) {
  throw std::runtime_error(path.string() + ": " + problem);
}

}  // namespace sinkscope
