#include "engine/files/cache_folder.h"

#include <cstdlib>

namespace sinkscope {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

std::filesystem::path user_cache_folder() {
  const std::filesystem::path cache = environment("XDG_CACHE_HOME"), home = environment("HOME");
  if (!cache.empty()) return cache / "sinkscope";
  return home.empty() ? home : home / ".cache" / "sinkscope";
}

}  // namespace sinkscope
