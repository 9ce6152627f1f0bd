// What every call of a Communicator does with several ranks: run by mpirun, one process a rank. Exit status 1 after
// the first check that does not hold. With the argument "hang" rank 1 does not come to a call, though it lives; with "asleep"
// none goes on, and none waits for another; with "stop" all end in order, with an error, rank 0 late.
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

Tensor view(std::vector<float>& values) { return Tensor(values.data(), DType::f32, {std::ssize(values)}); }

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

void check_tensors(Communicator& ranks) {
  const int N = ranks.size(), mine = ranks.rank();
  for (const std::int64_t count : {0, 1, 2, 3, 5, 1000, 4 * 1024 * 1024 + 17}) {
    std::vector<float> x = values_of(mine, count);
    ranks.all_reduce(view(x));
    for (std::int64_t i = 0; i < count; ++i) expect(same(x[static_cast<std::size_t>(i)], sum_at(N, i)), "all_reduce in rank order");
    if (count == 0) continue;
    // Even parts where there are any; else the last ranks have fewer elements, or none.
    const std::int64_t share = count % N == 0 ? count / N : count / N + 2;
    for (const bool apart : {false, true})
      for (const DType wire : {DType::f32, DType::bf16}) {
        std::vector<float> part = values_of(mine, count);
        Stretch stretch{.x = view(part), .part = share};
        std::vector<float> kept(static_cast<std::size_t>(stretch.size_of(mine)), NAN);
        if (apart) stretch.own = view(kept);
        ranks.start_reduce({&stretch, 1}, wire);
        ranks.join();
        ranks.finish();
        const std::int64_t first = stretch.begin_of(mine);
        for (std::int64_t i = 0; i < stretch.size_of(mine); ++i)
          expect(same(stretch.kept(mine).as<float>()[i], sum_at(N, first + i, wire, mine)), "reduce in rank order");
        if (apart) part.assign(part.size(), NAN);
        ranks.start_share(std::vector{stretch, stretch});
        ranks.finish();
        for (std::int64_t i = 0; i < count; ++i)
          expect(same(part[static_cast<std::size_t>(i)], sum_at(N, i, wire, static_cast<int>(i / share))), "share of a stretch");
      }
    std::vector<float> rounded = values_of(mine, count);
    ranks.all_reduce(view(rounded), DType::bf16);
    std::vector<float> as_others = rounded;
    ranks.broadcast(view(as_others), 0);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      expect(same(rounded[at], as_others[at]), "all_reduce in bf16 the same on all ranks");
      bool found = false;
      for (int rank = 0; rank < N; ++rank) found = found || same(rounded[at], from_bf16(to_bf16(sum_at(N, i, DType::bf16, rank))));
      expect(found, "all_reduce in bf16 one rank's sum, rounded");
    }
    const auto double_of = [](int rank, std::int64_t i) { return std::sqrt(static_cast<double>(i + 7 * rank + 2)); };
    std::vector<double> doubles(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) doubles[static_cast<std::size_t>(i)] = double_of(mine, i);
    ranks.all_reduce(Tensor(doubles.data(), DType::f64, {count}));
    for (std::int64_t i = 0; i < count; ++i) {
      double sum = double_of(0, i);
      for (int rank = 1; rank < N; ++rank) sum += double_of(rank, i);
      expect(doubles[static_cast<std::size_t>(i)] == sum, "all_reduce of doubles");
    }
    std::vector<float> sent = values_of(mine, count);
    ranks.broadcast(view(sent), N - 1);
    expect(sent == values_of(N - 1, count), "broadcast");
  }
}

void check_host(Communicator& ranks) {
  const int N = ranks.size(), mine = ranks.rank();
  std::vector<double> doubles = {static_cast<double>(mine), 0.25, mine == 1 ? NAN : 0.0};
  ranks.sum(std::span<double>(doubles));
  expect(doubles[0] == N * (N - 1) / 2.0 && doubles[1] == 0.25 * N && std::isnan(doubles[2]), "sum of doubles");
  std::vector<double> sums = {1.5}, largest = {static_cast<double>(mine), static_cast<double>(-mine), mine == 1 ? NAN : 1e300, mine == 0 ? NAN : 0.0};
  ranks.sum_and_max(sums, largest);
  expect(sums[0] == 1.5 * N && largest[0] == N - 1 && largest[1] == 0 && std::isnan(largest[2]) && std::isnan(largest[3]), "sum and maximum");
  std::vector<std::int64_t> integers = {std::int64_t{1} << 60, -mine};
  ranks.sum(std::span<std::int64_t>(integers));
  expect(integers[0] == N * (std::int64_t{1} << 60) && integers[1] == -N * (N - 1) / 2, "sum of integers");
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

void run() {
  World world(read_launch(), {.start = 60, .usual = 30});
  const std::vector<std::string> names = world.exchange("I am " + std::to_string(world.rank()) + "\n\0:");
  for (std::size_t rank = 0; rank < names.size(); ++rank)
    expect(names[rank].starts_with("I am " + std::to_string(rank)), "exchange");
  expect(std::ssize(names) == world.size(), "exchange of all");
  const auto ops = make_cpu_ops(1);
  const auto ranks = world.connect(*ops, {});
  expect(ranks->rank() == world.rank() && ranks->size() == world.size(), "ranks");
  check_tensors(*ranks);
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
      what.empty() ? sinkscope::run() : sinkscope::stop_going_on(what == "asleep");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank_checks: %s\n", error.what());
    return 1;
  }
  return 0;
}
