#include "tools/report/run_numbers.h"

#include <array>

namespace sinkscope {
namespace {

std::optional<double> last_of(const std::optional<FirstLast>& value) {
  return value ? std::optional<double>(value->last) : std::nullopt;
}

template <class Value>
std::optional<double> as_number(const std::optional<Value>& value) {
  return value ? std::optional<double>(static_cast<double>(*value)) : std::nullopt;
}

std::optional<double> validation_loss(const RunData&, const ArmSummary& arm) {
  return last_of(arm.validation_loss_common);
}
std::optional<double> training_loss(const RunData&, const ArmSummary& arm) { return last_of(arm.train_loss_common); }
std::optional<double> onset_step(const RunData&, const ArmSummary& arm) {
  return arm.onset ? std::optional<double>(static_cast<double>(arm.onset->step)) : std::nullopt;
}
std::optional<double> onset_tokens(const RunData&, const ArmSummary& arm) {
  return arm.onset ? std::optional<double>(static_cast<double>(arm.onset->tokens)) : std::nullopt;
}
std::optional<double> excess(const RunData&, const ArmSummary& arm) { return last_of(arm.sink_excess[0]); }
std::optional<double> rate(const RunData&, const ArmSummary& arm) { return last_of(arm.sink_rate[0]); }
std::optional<double> norm_ratio(const RunData&, const ArmSummary& arm) {
  return arm.norm_ratio ? std::optional<double>(arm.norm_ratio->ratio) : std::nullopt;
}
std::optional<double> value_ratio(const RunData&, const ArmSummary& arm) { return arm.value_ratio; }
std::optional<double> step_up_layer(const RunData&, const ArmSummary& arm) { return as_number(arm.step_up_layer); }
std::optional<double> concentration(const RunData&, const ArmSummary& arm) { return arm.concentration; }
std::optional<double> speed(const RunData&, const ArmSummary& arm) {
  return arm.tokens_per_second > 0 ? std::optional<double>(arm.tokens_per_second) : std::nullopt;
}

constexpr std::array<RunNumber, 12> kNumbers = {{{"validation loss, common targets", false, validation_loss},
                                                  {"training loss, common targets", false, training_loss},
                                                  {"sink onset, step", false, onset_step},
                                                  {kOnsetTokens, false, onset_tokens},
                                                  {"sink excess P0", false, excess},
                                                  {"sink rate P0", true, rate},
                                                  {"sink rate P0, short probe set", false, short_set_rate},
                                                  {"largest P0 norm ratio", false, norm_ratio},
                                                  {"P0 value norm / rest, smallest", false, value_ratio},
                                                  {kStepUpLayer, false, step_up_layer},
                                                  {"first-two-layer share C2", false, concentration},
                                                  {"tokens per second, median", false, speed}}};

}  // namespace

std::span<const RunNumber> run_numbers() { return kNumbers; }

std::optional<double> short_set_rate(const RunData& run, const ArmSummary& arm) {
  const ProbeRecord* last = nullptr;
  for (const ProbeRecord& probe : run.probes)
    if (probe.set == (phase_set_of(arm.bos) == "natural" ? "natural_short" : "natural_short_bos") &&
        (last == nullptr || probe.step > last->step))
      last = &probe;
  if (last == nullptr || last->sink_rate.empty()) return std::nullopt;
  return last->sink_rate.front();
}

}  // namespace sinkscope
