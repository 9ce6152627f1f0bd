#include "tools/bench/arrays.h"

#include <algorithm>
#include <cmath>

#include "engine/model/random.h"

namespace sinkscope {
namespace {

// Numbers of the source: odd many stretches of 64, so that no matrix has two equal rows soon.
constexpr std::int64_t kStretch = 64;
constexpr std::int64_t kSource = kStretch * 16411;

}  // namespace

std::vector<std::int32_t> random_tokens(std::uint64_t key, std::int64_t count, std::int64_t vocabulary) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  const double range = std::log(static_cast<double>(vocabulary) + 1);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto rank = static_cast<std::int64_t>(std::exp(random_uniform(key, i) * range));  // 1..V
    tokens[i] = static_cast<std::int32_t>(std::clamp<std::int64_t>(rank, 1, vocabulary) - 1);
  }
  return tokens;
}

RandomSource::RandomSource(Ops& ops) : ops_(ops) {
  std::vector<float> values(static_cast<std::size_t>(kSource));
  const std::uint64_t key = random_key(1, "bench");
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random_normal(key, i));
  single_ = ops.allocate(values.size() * size_of(DType::f32));
  real_ = ops.allocate(values.size() * size_of(ops.compute_dtype()));
  const Tensor single(single_.get(), DType::f32, {kSource});
  ops.copy_from_host(single, values.data());
  ops.convert(Tensor(real_.get(), ops.compute_dtype(), {kSource}), single);
}

void RandomSource::fill(const Tensor& tensor) {
  const Tensor source(tensor.dtype == DType::f32 ? single_.get() : real_.get(), tensor.dtype, {kSource});
  const Tensor flat = tensor.view({tensor.size()});
  for (std::int64_t begin = 0; begin < flat.size();) {
    const std::int64_t count = std::min(flat.size() - begin, kSource - start_);
    ops_.copy(flat.rows(begin, count), source.rows(start_, count));
    begin += count;
    start_ = 0;
  }
  start_ = (start_ + 7919 * kStretch) % kSource;
}

Tensor ArraySet::take(std::initializer_list<std::int64_t> extents, DType dtype) {
  const std::size_t bytes = Tensor(nullptr, dtype, extents).bytes();
  buffers_.push_back(ops_->allocate(bytes));
  bytes_ += bytes;
  return Tensor(buffers_.back().get(), dtype, extents);
}

Tensor ArraySet::normal(std::initializer_list<std::int64_t> extents, DType dtype) {
  const Tensor tensor = take(extents, dtype);
  source_->fill(tensor);
  return tensor;
}

Tensor ArraySet::zeros(std::initializer_list<std::int64_t> extents, DType dtype) {
  const Tensor tensor = take(extents, dtype);
  ops_->zero(tensor);
  return tensor;
}

Tensor ArraySet::tokens(std::initializer_list<std::int64_t> extents, const std::vector<std::int32_t>& values) {
  const Tensor tensor = take(extents, DType::i32);
  ops_->copy_from_host(tensor, values.data());
  return tensor;
}

}  // namespace sinkscope
