// Arrays of random numbers on the device, for timing operations on realistic data: a GPU clocks
// differently on zeros.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/ops.h"

namespace sinkscope {

/// `count` tokens in [0, vocabulary), log-uniform: about as often as Zipf's law has it for the words of a text.
std::vector<std::int32_t> random_tokens(std::uint64_t key, std::int64_t count, std::int64_t vocabulary);

/// Standard normal numbers, laid over arrays of any size again and again.
class RandomSource {
 public:
  explicit RandomSource(Ops& ops);
  /// Fills an f32 or real array; the n-th call starts at another place than the one before.
  void fill(const Tensor& tensor);

 private:
  Ops& ops_;
  Buffer single_, real_;
  std::int64_t start_ = 0;
};

/// The arrays of one call of an operation.
class ArraySet {
 public:
  ArraySet(Ops& ops, RandomSource& source) : ops_(&ops), source_(&source) {}

  Tensor normal(std::initializer_list<std::int64_t> extents, DType dtype);
  Tensor normal(std::initializer_list<std::int64_t> extents) { return normal(extents, ops_->compute_dtype()); }
  Tensor zeros(std::initializer_list<std::int64_t> extents, DType dtype);
  Tensor zeros(std::initializer_list<std::int64_t> extents) { return zeros(extents, ops_->compute_dtype()); }
  Tensor tokens(std::initializer_list<std::int64_t> extents, const std::vector<std::int32_t>& values);
  std::size_t bytes() const { return bytes_; }

 private:
  Tensor take(std::initializer_list<std::int64_t> extents, DType dtype);

  Ops* ops_;
  RandomSource* source_;
  std::vector<Buffer> buffers_;
  std::size_t bytes_ = 0;
};

}  // namespace sinkscope
