// Threading of the CPU backend. Work is cut into parts by sizes and the thread count alone, and a
// part's result does not depend on the thread that runs it: results are bit-identical from run to run.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace sinkscope {

/// The number of parts for `items` items of `item_cost` elements each: one per thread, unless that
/// leaves a part less work than starting a thread costs.
inline int part_count(int threads, std::int64_t items, std::int64_t item_cost) {
  constexpr std::int64_t kPartCost = 8192;  // elements; a few microseconds of memory-bound work
  const std::int64_t grain = std::max<std::int64_t>(1, kPartCost / std::max<std::int64_t>(1, item_cost));
  return static_cast<int>(std::clamp<std::int64_t>(items / grain, 1, threads));
}

/// First item of part `part` of `parts` nearly equal ones.
inline std::int64_t part_begin(std::int64_t items, int part, int parts) { return items * part / parts; }

/// function(part, begin, end) for every part, which must not throw.
template <class Function>
void parallel_parts(int parts, std::int64_t items, Function&& function) {
  if (parts <= 1) {
    function(0, std::int64_t{0}, items);
    return;
  }
#pragma omp parallel for schedule(static, 1) num_threads(parts)
  for (int part = 0; part < parts; ++part)
    function(part, part_begin(items, part, parts), part_begin(items, part + 1, parts));
}

/// function(begin, end) over [0, items), for work whose result does not depend on the cut.
template <class Function>
void parallel_range(int threads, std::int64_t items, std::int64_t item_cost, Function&& function) {
  parallel_parts(part_count(threads, items, item_cost), items,
                 [&](int, std::int64_t begin, std::int64_t end) { function(begin, end); });
}

/// function(thread, task) for every task, uneven ones balanced over the threads as they come free:
/// tasks must write to places of their own. `thread` is in [0, threads), for scratch memory.
template <class Function>
void parallel_tasks(int threads, std::int64_t tasks, Function&& function) {
  const int team = static_cast<int>(std::clamp<std::int64_t>(tasks, 1, threads));
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
  for (std::int64_t task = 0; task < tasks; ++task) function(omp_get_thread_num(), task);
}

/// total[i] += sum over parts of partials[part * stride + i], parts in order.
inline void add_partials(int threads, int parts, const float* partials, std::int64_t stride, std::int64_t size,
                         float* total) {
  parallel_range(threads, size, parts, [&](std::int64_t begin, std::int64_t end) {
    for (int part = 0; part < parts; ++part) {
      const float* partial = partials + part * stride;
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) total[i] += partial[i];
    }
  });
}

}  // namespace sinkscope
