#include "engine/train/product_plans.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "engine/files/input_file.h"
#include "engine/files/replacement.h"
#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

constexpr const char* kRemedy = "; delete the file, and products are timed anew";

/// Holds the lock beside the record; waits for who has it.
class Turn {
 public:
  explicit Turn(const std::filesystem::path& path) : file_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (file_ < 0) throw_system_error(path, "open", errno);
    int status = 0;
    while ((status = flock(file_, LOCK_EX)) != 0 && errno == EINTR) {
    }
    if (status == 0) return;
    const int reason = errno;
    close(file_);
    throw_system_error(path, "lock", reason);
  }
  ~Turn() { close(file_); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  int file_;
};

std::filesystem::path lock_of(const std::filesystem::path& file) { return file.string() + ".lock"; }

std::map<std::string, std::string> read(const std::filesystem::path& file) {
  std::map<std::string, std::string> products;
  if (!std::filesystem::exists(file)) return products;
  const nlohmann::json json = nlohmann::json::parse(read_text_file(file), nullptr, false);
  if (!json.is_object()) refuse(file, std::string("is no JSON object of products and their algorithms") + kRemedy);
  for (const auto& [product, algorithm] : json.items()) {
    if (!algorithm.is_string() || algorithm.get_ref<const std::string&>().empty())
      refuse(file, "\"" + product + "\" is " + algorithm.dump() + ", expected the algorithm's word" + kRemedy);
    products.emplace(product, algorithm.get<std::string>());
  }
  return products;
}

}  // namespace

std::optional<std::filesystem::path> product_plans_file(const std::function<const char*(const char*)>& variable) {
  const auto set = [&](const char* name) -> const char* {
    const char* value = variable(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
  };
  constexpr const char* kName = "products.json";
  if (const char* folder = set("SINKSCOPE_CACHE")) return std::filesystem::path(folder) / kName;
  if (const char* folder = set("XDG_CACHE_HOME")) return std::filesystem::path(folder) / "sinkscope" / kName;
  if (const char* folder = set("HOME")) return std::filesystem::path(folder) / ".cache" / "sinkscope" / kName;
  return std::nullopt;
}

ProductPlans::ProductPlans(std::filesystem::path file) : file_(std::move(file)) {
  std::error_code error;
  std::filesystem::create_directories(file_.parent_path(), error);
  if (error) throw_system_error(file_.parent_path(), "make the folder", error.value());
  if (access(file_.parent_path().c_str(), W_OK | X_OK) != 0) throw_system_error(file_.parent_path(), "write to", errno);
}

std::string ProductPlans::choose(const std::string& product, const std::function<std::string()>& time) {
  if (const auto known = known_.find(product); known != known_.end()) return known->second;
  // What is on record waits for nobody: the process whose turn it is may itself be waiting for this one to go on.
  known_.merge(read(file_));
  if (const auto known = known_.find(product); known != known_.end()) return known->second;
  const Turn turn(lock_of(file_));
  std::map<std::string, std::string> products = read(file_);
  if (const auto recorded = products.find(product); recorded != products.end()) return known_[product] = recorded->second;
  const std::string algorithm = products[product] = time();
  if (algorithm.empty()) throw std::logic_error("ProductPlans: timing \"" + product + "\" gave no algorithm");
  FileReplacement replacement(file_);
  replacement.write(nlohmann::json(products).dump(1) + "\n");
  replacement.commit();
  return known_[product] = algorithm;
}

ChooseAlgorithm choose_by_record(bool warns) {
  const auto warn = [warns](const std::string& reason) {
    if (warns) spdlog::warn("matrix products are not timed, since no record of them can be kept: {}", reason);
  };
  const auto file = product_plans_file([](const char* name) { return std::getenv(name); });
  if (!file) {
    warn("none of SINKSCOPE_CACHE, XDG_CACHE_HOME and HOME is set");
    return {};
  }
  try {
    const auto plans = std::make_shared<ProductPlans>(*file);
    return [plans](const std::string& product, const std::function<std::string()>& time) { return plans->choose(product, time); };
  } catch (const std::runtime_error& error) {
    warn(error.what());
    return {};
  }
}

}  // namespace sinkscope
