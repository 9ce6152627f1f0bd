#include "engine/model/arena.h"

#include <algorithm>
#include <stdexcept>

namespace sinkscope {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t round_up(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

std::size_t Arena::request(std::string buffer_name, DType dtype, std::int64_t elements) {
  if (allocated()) throw std::logic_error("arena " + name_ + ": request of " + buffer_name + " after allocation");
  if (elements < 0) throw std::logic_error("arena " + name_ + ": " + buffer_name + " has a negative size");
  const std::size_t bytes = round_up(static_cast<std::size_t>(elements) * size_of(dtype));
  entries_.push_back({std::move(buffer_name), bytes_, bytes});
  dtypes_.push_back(dtype);
  bytes_ += bytes;
  return entries_.size() - 1;
}

void Arena::allocate(Ops& ops) {
  if (allocated()) throw std::logic_error("arena " + name_ + " is allocated twice");
  const std::size_t bytes = std::max(bytes_, kAlignment);
  buffer_ = ops.allocate(bytes);
  ops.zero(Tensor(buffer_.get(), DType::i32, {static_cast<std::int64_t>(bytes / size_of(DType::i32))}));
}

Tensor Arena::tensor(std::size_t index, std::initializer_list<std::int64_t> extents) const {
  const ArenaEntry& entry = entries_.at(index);
  Tensor tensor(buffer_.get() + entry.offset, dtypes_[index], extents);
  if (tensor.bytes() > entry.bytes)
    throw std::logic_error("arena " + name_ + ": " + entry.name + " holds " + std::to_string(entry.bytes) +
                           " bytes, not " + describe(tensor));
  return tensor;
}

}  // namespace sinkscope
