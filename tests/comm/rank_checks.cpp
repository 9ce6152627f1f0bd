// What every call of a Communicator does with several ranks: run by mpirun, one process a rank. Exit status 1 after the
// first check that does not hold. With the argument "copies" or "kernels" on GPUs. With "hang" rank 1 does not come to
// a call, though it lives; with "asleep" none goes on, and none waits for another; with "stop" all end in order, with
// an error, rank 0 late.
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine/comm/world.h"
#include "kernels/ops.h"

namespace sinkscope {
namespace {

void expect(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("does not hold: ") + what);
}

/// Differs with the rank and the element, and its sum with the order.
float value_of(int rank, std::int64_t i) {
  return static_cast<float>(std::sin(0.7 * static_cast<double>(i) + rank) * std::pow(10.0, (i + 3 * rank) % 7));
}

std::vector<float> values_of(int rank, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = value_of(rank, i);
  return values;
}

/// In rank order; with a wire of bf16 what all but `owner` give is rounded.
float sum_at(int ranks, std::int64_t i, DType wire = DType::f32, int owner = 0) {
  const auto addend = [&](int rank) {
    return wire == DType::bf16 && rank != owner ? from_bf16(to_bf16(value_of(rank, i))) : value_of(rank, i);
  };
  float sum = addend(0);
  for (int rank = 1; rank < ranks; ++rank) sum += addend(rank);
  return sum;
}

bool same(float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }

/// Of f32 or f64 where the Ops computes.
template <class Number>
class Array {
 public:
  Array(Ops& ops, const std::vector<Number>& values) : ops_(&ops), size_(std::ssize(values)) {
    if (size_ == 0) return;
    buffer_ = ops.allocate(values.size() * sizeof(Number));
    ops.copy_from_host(tensor(), values.data());
  }
  Tensor tensor() const {
    return Tensor(buffer_.get(), sizeof(Number) == sizeof(float) ? DType::f32 : DType::f64, {size_});
  }
  std::vector<Number> values() const {
    std::vector<Number> found(static_cast<std::size_t>(size_));
    if (size_ > 0) ops_->copy_to_host(found.data(), tensor());
    return found;
  }

 private:
  Ops* ops_;
  std::int64_t size_;
  Buffer buffer_;
};

std::vector<float> unknown(std::int64_t count) { return std::vector<float>(static_cast<std::size_t>(count), NAN); }

/// An array that is dealt, with what this rank keeps of it in its place or by itself.
struct Dealt {
  Dealt(Ops& ops, const std::vector<float>& values, std::int64_t part, bool apart, int mine)
      : whole(ops, values),
        rank(mine),
        stretch{.x = whole.tensor(), .part = part},
        own(ops, unknown(stretch.size_of(rank))) {
    if (apart && stretch.size_of(rank) > 0) stretch.own = own.tensor();
  }
  std::vector<float> kept() const {
    if (stretch.own) return own.values();
    const std::vector<float> all = whole.values();
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(stretch.begin_of(rank));
    return {first, first + static_cast<std::ptrdiff_t>(stretch.size_of(rank))};
  }

  Array<float> whole;
  int rank;
  Stretch stretch;
  Array<float> own;
};

/// Which sums that do not travel in bf16 are formed in rank order; those that do always are.
struct Order {
  bool all_reduced, reduced;
};

/// Sums of another order differ by roundings of their largest terms.
void expect_sum(float found, int ranks, std::int64_t i, DType wire, int owner, bool in_order, const char* what) {
  const float sum = sum_at(ranks, i, wire, owner);
  double terms = 0;
  for (int rank = 0; rank < ranks; ++rank) terms += std::abs(static_cast<double>(value_of(rank, i)));
  expect(in_order ? same(found, sum) : std::abs(static_cast<double>(found) - static_cast<double>(sum)) <= 1e-6 * terms,
         what);
}

void check_dealt(Communicator& ranks, Ops& ops, std::int64_t count, bool in_order) {
  const int N = ranks.size(), mine = ranks.rank();
  // Even parts where there are any; else the last ranks have fewer elements, or none.
  const std::int64_t share = count % N == 0 ? count / N : count / N + 2, less = count / 3 + 1;
  for (const bool apart : {false, true})
    for (const DType wire : {DType::f32, DType::bf16})
      for (const bool beside : {false, true}) {
        Dealt first(ops, values_of(mine, count), share, apart, mine),
            second(ops, values_of(mine, less), less, apart, mine);
        Dealt late(ops, values_of(mine, less), less / N + 1, apart, mine);
        if (apart && late.stretch.own) ops.copy(late.stretch.own, late.stretch.of(mine));
        const auto expect_sums = [&](const Dealt& dealt) {
          const std::vector<float> kept = dealt.kept();
          for (std::int64_t i = 0; i < std::ssize(kept); ++i)
            expect_sum(kept[static_cast<std::size_t>(i)], N, dealt.stretch.begin_of(mine) + i, wire, mine,
                       in_order || wire == DType::bf16, "reduce");
        };
        // What is shared comes behind the sums, which are joined alone first.
        ranks.start_reduce(std::vector{first.stretch, second.stretch}, wire);
        const std::int64_t mark = ranks.mark();
        beside ? ranks.start_share_beside({&late.stretch, 1}) : ranks.start_share({&late.stretch, 1});
        ranks.join(mark);
        expect_sums(first);
        expect_sums(second);
        ranks.join();
        const std::vector<float> shared = late.whole.values();
        for (std::int64_t i = 0; i < less; ++i)
          expect(same(shared[static_cast<std::size_t>(i)], value_of(static_cast<int>(i / late.stretch.part), i)),
                 "share of values");
        const std::vector<float> kept = first.kept();
        if (apart) ops.copy_from_host(first.whole.tensor(), unknown(count).data());
        const std::vector both{first.stretch, second.stretch};
        beside ? ranks.start_share_beside(both) : ranks.start_share(both);
        ranks.finish();
        const std::vector<float> sums = first.whole.values();
        for (std::int64_t i = 0; i < count; ++i)
          expect_sum(sums[static_cast<std::size_t>(i)], N, i, wire, static_cast<int>(i / share),
                     in_order || wire == DType::bf16, "share of sums");
        for (std::size_t i = 0; i < kept.size(); ++i)
          expect(same(sums[static_cast<std::size_t>(first.stretch.begin_of(mine)) + i], kept[i]),
                 "share of this rank's sums");
      }
}

void check_tensors(Communicator& ranks, Ops& ops, const Order& in_order) {
  const int N = ranks.size(), mine = ranks.rank();
  for (const std::int64_t count : {0, 1, 2, 3, 5, 1000, 4 * 1024 * 1024 + 17}) {
    const Array<float> x(ops, values_of(mine, count));
    ranks.all_reduce(x.tensor());
    const std::vector<float> sums = x.values();
    for (std::int64_t i = 0; i < count; ++i)
      expect_sum(sums[static_cast<std::size_t>(i)], N, i, DType::f32, 0, in_order.all_reduced, "all_reduce");
    if (count == 0) continue;
    check_dealt(ranks, ops, count, in_order.reduced);
    const Array<float> rounded(ops, values_of(mine, count));
    ranks.all_reduce(rounded.tensor(), DType::bf16);
    const std::vector<float> all = rounded.values();
    for (const Array<float>* each : {&x, &rounded}) {
      const Array<float> others(ops, each->values());
      ranks.broadcast(others.tensor(), 0);
      expect(others.values() == each->values(), "all_reduce the same on all ranks");
    }
    for (std::int64_t i = 0; i < count; ++i) {
      bool found = false;
      for (int rank = 0; rank < N; ++rank)
        found = found || same(all[static_cast<std::size_t>(i)], from_bf16(to_bf16(sum_at(N, i, DType::bf16, rank))));
      expect(found, "all_reduce in bf16 one rank's sum, rounded");
    }
    const auto double_of = [](int rank, std::int64_t i) { return std::sqrt(static_cast<double>(i + 7 * rank + 2)); };
    std::vector<double> doubles(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) doubles[static_cast<std::size_t>(i)] = double_of(mine, i);
    const Array<double> wide(ops, doubles);
    ranks.all_reduce(wide.tensor());
    doubles = wide.values();
    for (std::int64_t i = 0; i < count; ++i) {
      double sum = double_of(0, i);
      for (int rank = 1; rank < N; ++rank) sum += double_of(rank, i);
      const double found = doubles[static_cast<std::size_t>(i)];
      expect(in_order.all_reduced ? found == sum : std::abs(found - sum) <= 1e-14 * sum, "all_reduce of doubles");
    }
    const Array<float> sent(ops, values_of(mine, count));
    ranks.broadcast(sent.tensor(), N - 1);
    expect(sent.values() == values_of(N - 1, count), "broadcast");
  }
}

void check_host(Communicator& ranks) {
  const int N = ranks.size(), mine = ranks.rank();
  std::vector<double> doubles = {static_cast<double>(mine), 0.25, mine == 1 ? NAN : 0.0};
  ranks.sum(std::span<double>(doubles));
  expect(doubles[0] == N * (N - 1) / 2.0 && doubles[1] == 0.25 * N && std::isnan(doubles[2]), "sum of doubles");
  std::vector<double> sums = {1.5}, largest = {static_cast<double>(mine), static_cast<double>(-mine),
                                               mine == 1 ? NAN : 1e300, mine == 0 ? NAN : 0.0};
  ranks.sum_and_max(sums, largest);
  expect(
      sums[0] == 1.5 * N && largest[0] == N - 1 && largest[1] == 0 && std::isnan(largest[2]) && std::isnan(largest[3]),
      "sum and maximum");
  std::vector<std::int64_t> integers = {std::int64_t{1} << 59, -mine};
  ranks.sum(std::span<std::int64_t>(integers));
  expect(integers[0] == N * (std::int64_t{1} << 59) && integers[1] == -N * (N - 1) / 2, "sum of integers");
  std::vector<float> floats = {1.5F};
  ranks.sum(std::span<float>(floats));
  expect(floats[0] == 1.5F * static_cast<float>(N), "sum of floats");
  expect(!ranks.any(false) && ranks.any(true) && ranks.any(mine == N - 1), "any");
  expect(ranks.text_of(1, "text of " + std::to_string(mine)) == "text of 1", "text_of");
  expect(ranks.text_of(0, mine == 0 ? "" : "other").empty(), "text_of without text");
  expect(!ranks.first(std::nullopt), "first of none");
  const auto first = ranks.first(mine == 0 ? std::nullopt : std::optional("rank " + std::to_string(mine)));
  expect(first == "rank 1", "first");
  ranks.barrier();
}

/// Of rank 1 alone, which then does not come to a call; or of all.
void stop_going_on(bool all) {
  World world(read_launch(), {.start = 3, .usual = 60});
  const auto ops = make_cpu_ops(1);
  const auto ranks = world.connect(*ops, {});
  ranks->barrier();
  world.set_step(7);
  if (all || world.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(60));
  ranks->barrier();
}

void stop_in_order() {
  World world(read_launch(), {.start = 60, .usual = 30});
  const auto ops = make_cpu_ops(1);
  const auto ranks = world.connect(*ops, {});
  ranks->barrier();
  world.end_in_order();
  if (world.leads()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2500));
    std::printf("rank 0 has ended\n");
  }
  throw std::runtime_error("stopped");
}

/// On the CPU by MPI; on GPUs by NCCL, in `way` "copies" with copy engines, in "kernels" without.
void run(const std::string& way) {
  World world(read_launch(), {.start = 60, .usual = 30});
  const std::vector<std::string> names = world.exchange("I am " + std::to_string(world.rank()) + "\n\0:");
  for (std::size_t rank = 0; rank < names.size(); ++rank)
    expect(names[rank].starts_with("I am " + std::to_string(rank)), "exchange");
  expect(std::ssize(names) == world.size(), "exchange of all");
  const auto ops = way.empty() ? make_cpu_ops(1) : make_cuda_ops({.device = world.local_rank(), .compute = DType::f32});
  const bool copies = way == "copies";
  const auto ranks = world.connect(
      *ops, copies ? CarriedBytes{.reduced = std::size_t{192} << 20, .shared = std::size_t{96} << 20} : CarriedBytes{});
  expect(ranks->rank() == world.rank() && ranks->size() == world.size(), "ranks");
  expect(ranks->shares_beside() == copies, "copy engines");
  check_tensors(*ranks, *ops, {.all_reduced = way.empty(), .reduced = way.empty() || copies});
  check_host(*ranks);
  if (world.leads()) std::printf("%d ranks agree\n", world.size());
}

}  // namespace
}  // namespace sinkscope

int main(int argc, char** argv) {
  try {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "stop")
      sinkscope::stop_in_order();
    else
      what == "hang" || what == "asleep" ? sinkscope::stop_going_on(what == "asleep") : sinkscope::run(what);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank_checks: %s\n", error.what());
    return 1;
  }
  return 0;
}
