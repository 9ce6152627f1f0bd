#include "engine/comm/communicator.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace sinkscope {
namespace {

template <class Number>
void sum_in_rank_order(Communicator& communicator, std::span<Number> values) {
  if (communicator.size() == 1) return;
  const std::vector<std::byte> all = communicator.gather(std::as_bytes(values));
  std::vector<Number> of_rank(values.size());
  std::fill(values.begin(), values.end(), Number{0});
  for (std::size_t rank = 0; rank * values.size_bytes() < all.size(); ++rank) {
    std::memcpy(of_rank.data(), all.data() + rank * values.size_bytes(), values.size_bytes());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += of_rank[i];
  }
}

}  // namespace

void Communicator::sum(std::span<double> values) { sum_in_rank_order(*this, values); }
void Communicator::sum(std::span<float> values) { sum_in_rank_order(*this, values); }
void Communicator::sum(std::span<std::int64_t> values) { sum_in_rank_order(*this, values); }

void Communicator::sum_and_max(std::span<double> sums, std::span<double> largest) {
  if (size() == 1) return;
  std::vector<double> mine(sums.begin(), sums.end());
  mine.insert(mine.end(), largest.begin(), largest.end());
  const std::vector<std::byte> all = gather(std::as_bytes(std::span(mine)));
  const std::size_t bytes = mine.size() * sizeof(double);
  std::fill(sums.begin(), sums.end(), 0.0);
  for (std::size_t rank = 0; rank * bytes < all.size(); ++rank) {
    std::memcpy(mine.data(), all.data() + rank * bytes, bytes);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += mine[i];
    for (std::size_t i = 0; i < largest.size(); ++i)
      if (const double value = mine[sums.size() + i]; !std::isnan(largest[i]) && !(value <= largest[i]))
        largest[i] = value;
  }
}

void Communicator::barrier() { static_cast<void>(any(false)); }

bool Communicator::any(bool mine) {
  const std::byte flag{static_cast<unsigned char>(mine ? 1 : 0)};
  const std::vector<std::byte> flags = gather({&flag, 1});
  return std::any_of(flags.begin(), flags.end(), [](std::byte value) { return value != std::byte{0}; });
}

std::string Communicator::text_of(int root, const std::string& mine) {
  std::int64_t length = rank() == root ? std::ssize(mine) : 0;
  sum(std::span(&length, 1));
  if (length == 0) return {};
  std::string padded = rank() == root ? mine : std::string();
  padded.resize(static_cast<std::size_t>(length));
  const std::vector<std::byte> all = gather(std::as_bytes(std::span(padded)));
  std::memcpy(padded.data(), all.data() + static_cast<std::size_t>(root) * padded.size(), padded.size());
  return padded;
}

std::optional<std::string> Communicator::first(const std::optional<std::string>& mine) {
  const std::byte has{static_cast<unsigned char>(mine ? 1 : 0)};
  const std::vector<std::byte> all = gather({&has, 1});
  const auto found = std::find(all.begin(), all.end(), std::byte{1});
  if (found == all.end()) return std::nullopt;
  return text_of(static_cast<int>(found - all.begin()), mine.value_or(""));
}

std::int64_t Stretch::begin_of(int rank) const { return std::min(rank * part, x.size()); }

std::int64_t Stretch::size_of(int rank) const { return begin_of(rank + 1) - begin_of(rank); }

std::int64_t line_elements(std::int64_t part) {
  constexpr std::int64_t kLine = 64;
  return (part + kLine - 1) / kLine * kLine;
}

void check_summable(const char* call, const Tensor& x, DType wire) {
  const bool fits =
      x.dtype == DType::f32 ? wire == DType::f32 || wire == DType::bf16 : x.dtype == DType::f64 && wire == DType::f32;
  if ((!x && x.size() > 0) || !fits)
    throw std::invalid_argument(std::string(call) + ": x is " + describe(x) + " on a wire of " + name_of(wire) +
                                ", expected f32, or f64 and no bf16");
}

void check_stretch(const char* call, const Stretch& stretch, int rank, int size) {
  if (stretch.x.rank != 1 || stretch.part < 0 || stretch.part * size < stretch.x.size())
    throw std::invalid_argument(std::string(call) + ": x is " + describe(stretch.x) +
                                ", expected one dimension of at most " + std::to_string(size) + " times " +
                                std::to_string(stretch.part) + " elements");
  if (stretch.own &&
      (stretch.own.rank != 1 || stretch.own.size() != stretch.size_of(rank) || stretch.own.dtype != stretch.x.dtype))
    throw std::invalid_argument(std::string(call) + ": own is " + describe(stretch.own) + ", expected " +
                                name_of(stretch.x.dtype) + " (" + std::to_string(stretch.size_of(rank)) + ")");
}

void OneProcess::check_alone(const char* call, const Stretch& stretch) {
  check_stretch(call, stretch, 0, 1);
  if (stretch.kept(0).data != stretch.x.data)
    throw std::invalid_argument(std::string(call) + ": one process keeps all in its place");
}

}  // namespace sinkscope
