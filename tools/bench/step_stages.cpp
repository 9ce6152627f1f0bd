#include "tools/bench/step_stages.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <stdexcept>

#include "tools/bench/kernels.h"
#include "tools/bench/step.h"

namespace sinkscope {
namespace {

constexpr int kWarmUpSteps = 2;

/// The least milliseconds of calls.
class Floors {
 public:
  Floors(Ops& ops, const Config& config, const Ceilings& ceilings) : ceilings_(ceilings) {
    for (KernelCase& kernel : kernel_cases(ops, config)) cases_.emplace(kernel.name, std::move(kernel));
  }

  /// The sum of its kernel cases, which follow one another; absent where no bytes are known.
  std::optional<double> of(const TimedCall& call) const {
    if (call.kernels.empty()) return call.bytes ? std::optional(floor_ms(ceilings_, *call.bytes, 0)) : std::nullopt;
    double sum = 0;
    for (const std::string& name : call.kernels) {
      const auto found = cases_.find(name);
      if (found == cases_.end()) throw std::logic_error("time_stages: a step does what no kernel case is: " + name);
      const KernelCase& kernel = found->second;
      const double part = kernel.rows == 0 ? 1 : static_cast<double>(call.rows) / static_cast<double>(kernel.rows);
      sum += floor_ms(ceilings_, kernel.fixed_bytes + part * (kernel.bytes - kernel.fixed_bytes),
                      part * kernel.flops / kernel.product_rate);
    }
    return sum;
  }

 private:
  Ceilings ceilings_;
  std::map<std::string, KernelCase> cases_;
};

}  // namespace

StageRow StepStages::total(std::optional<Stage> stage) const {
  StageRow sum;
  if (stage) {
    sum.stage = *stage;
    sum.name = name_of(*stage);
  }
  for (const StageRow& row : rows) {
    if (stage && row.stage != *stage) continue;
    sum.calls += row.calls;
    sum.ms += row.ms;
    if (row.floor) sum.floor = sum.floor.value_or(0) + *row.floor;
  }
  return sum;
}

StepStages time_stages(Ops& ops, const Config& config, const Ceilings& ceilings, int steps) {
  const Floors floors(ops, config, ceilings);
  TimedOps timed(ops);
  StepBench bench(timed, config, config.probes.enabled);
  bench.initialize();
  for (int i = 0; i < kWarmUpSteps; ++i) bench.step();

  StepStages result;
  result.steps = steps;
  std::map<std::string, std::size_t> places;    // of names in the rows
  std::vector<std::vector<double>> times;       // ms of each row in each step
  std::vector<double> marked, plain;            // ms of steps
  const auto whole_step = [&] {  // the update as well, which the next step would wait for
    ops.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    bench.step();
    ops.synchronize();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  };
  for (int step = 0; step < steps; ++step) {
    plain.push_back(whole_step());
    timed.begin(bench.decoder());
    marked.push_back(whole_step());
    for (const TimedCall& call : timed.end()) {
      const auto [place, added] = places.emplace(call.name, result.rows.size());
      if (added) {
        result.rows.push_back({.stage = call.stage, .name = call.name, .kernels = call.kernels});
        times.emplace_back(static_cast<std::size_t>(steps));
      }
      StageRow& row = result.rows[place->second];
      times[place->second][static_cast<std::size_t>(step)] += call.ms;
      if (step > 0) continue;  // every step calls the same
      ++row.calls;
      if (const std::optional<double> floor = floors.of(call)) row.floor = row.floor.value_or(0) + *floor;
    }
  }
  for (std::size_t i = 0; i < times.size(); ++i) result.rows[i].ms = median(times[i]);
  result.ms = median(marked);
  result.plain_ms = median(plain);
  std::stable_sort(result.rows.begin(), result.rows.end(),
                   [](const StageRow& a, const StageRow& b) { return a.stage < b.stage; });
  return result;
}

}  // namespace sinkscope
