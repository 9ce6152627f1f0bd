// Arenas: all the memory of one lifetime, planned by name, then allocated once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace sinkscope {

/// A planned buffer of an arena.
struct ArenaEntry {
  std::string name;
  std::size_t offset = 0;
  std::size_t bytes = 0;
};

/// Collects buffer requests; `allocate` reserves them in one block on the device and zeroes it.
class Arena {
 public:
  explicit Arena(std::string name) : name_(std::move(name)) {}

  /// Reserves room and returns the buffer's index. Throws std::logic_error after allocate().
  std::size_t request(std::string buffer_name, DType dtype, std::int64_t elements);
  void allocate(Ops& ops);
  bool allocated() const { return buffer_ != nullptr; }

  /// The buffer's first elements as a tensor of the given extents.
  Tensor tensor(std::size_t index, std::initializer_list<std::int64_t> extents) const;

  const std::string& name() const { return name_; }
  std::size_t bytes() const { return bytes_; }
  const std::vector<ArenaEntry>& entries() const { return entries_; }

 private:
  std::string name_;
  std::vector<ArenaEntry> entries_;
  std::vector<DType> dtypes_;
  std::size_t bytes_ = 0;
  Buffer buffer_;
};

}  // namespace sinkscope
