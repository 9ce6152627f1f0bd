#include "engine/train/product_record.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "engine/config/json_text.h"
#include "engine/files/cache_folder.h"
#include "engine/files/input_file.h"
#include "engine/files/new_folder.h"
#include "engine/files/replacement.h"
#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

/// The file beside the record whose lock is a turn; it may be another user's.
int open_lock(const std::filesystem::path& path) {
  int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0 && errno == EACCES) file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw_system_error(path, "open", errno);
  return file;
}

/// Holds the lock; waits for who has it.
class Turn {
 public:
  explicit Turn(const std::filesystem::path& path) : file_(open_lock(path)) {
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
  try {
    const nlohmann::ordered_json json = parse_strict(read_text_file(file), file.string());
    if (!json.is_object())
      refuse(file, "is " + describe_value(json) + ", expected an object of products and their algorithms");
    for (const auto& [product, algorithm] : json.items()) {
      if (!algorithm.is_string() || algorithm.get_ref<const std::string&>().empty())
        refuse(file, "\"" + product + "\" is " + describe_value(algorithm) + ", expected the algorithm's word");
      products.emplace(product, algorithm.get<std::string>());
    }
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(error.what() + std::string("; delete the file, and products are timed anew"));
  }
  return products;
}

}  // namespace

std::filesystem::path product_record_file() {
  const std::string chosen = environment("SINKSCOPE_CACHE");
  const std::filesystem::path folder = chosen.empty() ? user_cache_folder() : std::filesystem::path(chosen);
  return folder.empty() ? folder : folder / "products.json";
}

ProductRecord::ProductRecord(std::filesystem::path file) : file_(std::move(file)) {}

void ProductRecord::expect_writable() const {
  const std::filesystem::path folder = file_.parent_path();
  make_folders(folder);
  if (access(folder.c_str(), W_OK | X_OK) != 0) throw_system_error(folder, "write to", errno);
  // In a sticky folder, such as /tmp, only a file's owner may replace it.
  struct stat around {}, recorded {};
  if (stat(folder.c_str(), &around) != 0) throw_system_error(folder, "read", errno);
  const uid_t user = geteuid();
  if ((around.st_mode & S_ISVTX) != 0 && user != 0 && user != around.st_uid && stat(file_.c_str(), &recorded) == 0 &&
      user != recorded.st_uid)
    throw_system_error(file_, "replace", EPERM);
  close(open_lock(lock_of(file_)));
}

std::size_t ProductRecord::size() const { return read(file_).size(); }

std::string ProductRecord::choose(const std::string& product, const std::function<std::string()>& time) {
  if (const auto known = known_.find(product); known != known_.end()) return known->second;
  // What is on record waits for nobody: the process whose turn it is may itself be waiting for this one to go on.
  known_.merge(read(file_));
  if (const auto known = known_.find(product); known != known_.end()) return known->second;
  const Turn turn(lock_of(file_));
  std::map<std::string, std::string> products = read(file_);
  if (const auto recorded = products.find(product); recorded != products.end())
    return known_[product] = recorded->second;
  const std::string algorithm = products[product] = time();
  if (algorithm.empty()) throw std::logic_error("ProductRecord: timing \"" + product + "\" gave no algorithm");
  FileReplacement replacement(file_);
  replacement.write(nlohmann::json(products).dump(1) + "\n");
  replacement.commit();
  return known_[product] = algorithm;
}

ChooseAlgorithm choose_by_record(bool warns) {
  try {
    const std::filesystem::path file = product_record_file();
    if (file.empty()) throw std::runtime_error("none of SINKSCOPE_CACHE, XDG_CACHE_HOME and HOME is set");
    const auto record = std::make_shared<ProductRecord>(file);
    record->expect_writable();
    return [record](const std::string& product, const std::function<std::string()>& time) {
      return record->choose(product, time);
    };
  } catch (const std::runtime_error& error) {
    if (warns) spdlog::warn("matrix products are not timed, since no record of them can be kept: {}", error.what());
    return {};
  }
}

}  // namespace sinkscope
