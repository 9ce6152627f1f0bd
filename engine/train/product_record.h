// The record of which algorithm each large matrix product takes on a GPU (ChooseAlgorithm in kernels/ops.h): one JSON
// file for all runs of a user, so that a product is timed once and every rank and later run rounds alike.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "kernels/ops.h"

namespace sinkscope {

/// "products.json" in $SINKSCOPE_CACHE, where that is set, else in user_cache_folder(); empty where there is neither.
std::filesystem::path product_record_file();

class ProductRecord {
 public:
  /// Touches nothing.
  explicit ProductRecord(std::filesystem::path file);

  /// Makes the folder. Throws std::runtime_error naming it when it cannot be made or written.
  void expect_writable() const;

  /// The algorithm on record, or what `time` returns, then on record. Processes take turns, so that one times a product
  /// and the others find it. Throws std::runtime_error naming the file, and leaves it as it is, when it is damaged.
  std::string choose(const std::string& product, const std::function<std::string()>& time);

  /// Products on record. Throws as choose().
  std::size_t size() const;

 private:
  std::filesystem::path file_;
  std::map<std::string, std::string> known_;
};

/// From this user's record; none where no record can be kept, which is told in a warning where `warns`.
ChooseAlgorithm choose_by_record(bool warns);

}  // namespace sinkscope
