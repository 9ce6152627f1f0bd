#include "engine/comm/communicator.h"

#include <algorithm>
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

void OneProcess::all_gather(const Tensor& all, const Tensor& part) {
  check_parts("all_gather", all, part, 1);
  if (all.data != part.data) throw std::invalid_argument("all_gather: in one process the part must be the whole");
}

void OneProcess::reduce_scatter(const Tensor& part, const Tensor& all) {
  check_parts("reduce_scatter", all, part, 1);
  if (all.data != part.data) throw std::invalid_argument("reduce_scatter: in one process the part must be the whole");
}

void check_summable(const char* call, const Tensor& x) {
  if ((!x && x.size() > 0) || x.dtype != DType::f32)
    throw std::invalid_argument(std::string(call) + ": x is " + describe(x) + ", expected f32");
}

Tensor part_of(const Tensor& x, std::int64_t part, int rank) {
  const std::int64_t begin = std::min(x.size(), rank * part);
  return x.rows(begin, std::min(part, x.size() - begin));
}

void check_share(const char* call, const Tensor& x, std::int64_t part, int size) {
  if (x.rank != 1 || part < 0 || part * size < x.size())
    throw std::invalid_argument(std::string(call) + ": x is " + describe(x) + ", expected one dimension of at most " +
                                std::to_string(size) + " times " + std::to_string(part) + " elements");
}

void check_parts(const char* call, const Tensor& all, const Tensor& part, int size) {
  if (all.dtype != part.dtype || all.size() != part.size() * size)
    throw std::invalid_argument(std::string(call) + ": all is " + describe(all) + ", expected " + std::to_string(size) +
                                " times the part, " + describe(part));
}

}  // namespace sinkscope
