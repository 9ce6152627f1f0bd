// The record of which algorithm each large matrix product takes on a GPU (ChooseAlgorithm in kernels/ops.h): one JSON file for
// all runs of a user, so that a product is timed once and every rank and later run rounds alike.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "kernels/ops.h"

namespace sinkscope {

/// $SINKSCOPE_CACHE/products.json, $XDG_CACHE_HOME/sinkscope/products.json or $HOME/.cache/sinkscope/products.json, by the
/// first of these variables that is set; none where none is.
std::optional<std::filesystem::path> product_plans_file(const std::function<const char*(const char*)>& variable);

/// An object of products and their algorithms. Every error is a std::runtime_error naming the file.
class ProductPlans {
 public:
  /// Throws when the folder cannot be made or written.
  explicit ProductPlans(std::filesystem::path file);

  /// The algorithm on record, or what `time` returns, then on record. Processes take turns, so that one times a product
  /// and the others find it. Throws, and leaves the file as it is, when it is damaged.
  std::string choose(const std::string& product, const std::function<std::string()>& time);

 private:
  std::filesystem::path file_;
  std::map<std::string, std::string> known_;
};

/// That of this user; none where no record can be kept, which is told in a warning where `warns`.
ChooseAlgorithm choose_by_record(bool warns = true);

}  // namespace sinkscope
