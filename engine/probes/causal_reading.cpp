#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "engine/probes/causal.h"
#include "engine/probes/sink_scores.h"

namespace sinkscope {
namespace {

std::string with_interval(const Estimate& estimate, double factor, const char* format, const char* unit) {
  const auto text = [&](double value) {
    if (!std::isfinite(value)) return std::string("-");
    std::array<char, 32> buffer{};
    std::snprintf(buffer.data(), buffer.size(), format, factor * value);
    return std::string(buffer.data());
  };
  return text(estimate.value) + unit + " [" + text(estimate.low) + ", " + text(estimate.high) + "]";
}
std::string plain(const Estimate& estimate) { return with_interval(estimate, 1, "%.2f", ""); }

std::vector<const CausalTest*> of_kind(const CausalRecord& record, const std::string& kind) {
  std::vector<const CausalTest*> tests;
  for (const CausalTest& test : record.tests)
    if (test.kind == kind) tests.push_back(&test);
  return tests;
}

template <class Value>
const CausalTest& largest(const std::vector<const CausalTest*>& tests, Value value) {
  return **std::max_element(tests.begin(), tests.end(),
                            [&](const auto* a, const auto* b) { return value(*a) < value(*b); });
}

std::string layer_of(const CausalTest& test) { return "layer " + std::to_string(test.layer.value_or(-1)); }

std::string knock_outs(const CausalRecord& record, const std::string& kind, const std::string& branch) {
  const auto tests = of_kind(record, kind);
  const CausalTest& most = largest(tests, [](const CausalTest& test) { return test.removed.value; });
  const std::string text = "Without the " + branch + " output at position 0 of one layer the sink loses most in " +
                           layer_of(most) + ": " + share_text(most.removed) +
                           " of its excess over uniform attention is gone, and the loss changes by " +
                           with_interval(most.loss_change, 1, "%+.4f", " nats") + ".";
  const bool needed =
      std::any_of(tests.begin(), tests.end(), [](const CausalTest* test) { return test->removed.low > 0; });
  return needed ? text : text + " The interval of every layer reaches 0: none alone is needed.";
}

std::string at_other(const CausalTest& test, const CausalTest& before, std::int64_t position) {
  return "the excess of position " + std::to_string(position) + " goes from " + plain(before.other.excess) + " to " +
         plain(test.other.excess) + ", " + share_text(test.moved) + " of the sink at 0, which keeps " +
         plain(test.first.excess);
}

std::string percent_of(double share) {
  if (!std::isfinite(share)) return "-";
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.0f %%", 100 * share);
  return buffer.data();
}

}  // namespace

double isolation_by_itself(const CausalRecord& record, const CausalTest& test) {
  const auto layers = static_cast<double>(of_kind(record, "knock_out_mlp").size());
  const double score = static_cast<double>(*test.layer) / layers / static_cast<double>(record.length - record.position);
  const double uniform = uniform_sink_scores(record.length, record.position + 1).back();
  return score / uniform / (record.tests.front().first.excess.value - 1);
}

std::string share_text(const Estimate& share) { return with_interval(share, 100, "%.0f", " %"); }

std::string causal_summary(const CausalRecord& record) {
  const std::string excess = "excess " + plain(record.tests.front().first.excess) + " on " + record.set;
  if (!record.sink_formed) return "no sink yet: " + excess;
  const auto removed = [](const CausalTest& test) { return test.removed.value; };
  const auto moved = [](const CausalTest& test) { return test.moved.value; };
  const CausalTest& mlp = largest(of_kind(record, "knock_out_mlp"), removed);
  const CausalTest& attention = largest(of_kind(record, "knock_out_attention"), removed);
  std::string text = excess + "; knocked out at position 0, the MLP of " + layer_of(mlp) + " removes " +
                     share_text(mlp.removed) + ", the attention of " + layer_of(attention) + " " +
                     share_text(attention.removed);
  if (const auto tests = of_kind(record, "transplant"); !tests.empty()) {
    const CausalTest& most = largest(tests, moved);
    text += "; position 0's state after " + layer_of(most) + " moves " + share_text(most.moved) + " to position " +
            std::to_string(record.position);
  }
  const CausalTest& isolated = largest(of_kind(record, "isolate"), moved);
  return text + "; isolation in " + std::to_string(*isolated.layer) + " layers " + share_text(isolated.moved);
}

std::vector<std::string> causal_reading(const CausalRecord& record) {
  const CausalTest& before = record.tests.front();
  std::vector<std::string> statements;
  statements.push_back("The excess of position 0 is " + plain(before.first.excess) + ", its sink rate " +
                       share_text(before.first.rate) + ", its norm " + plain(before.first.ratio) + " of the others'" +
                       (record.step_up_layer ? ", stepping up in layer " + std::to_string(*record.step_up_layer)
                                             : std::string(", with no step-up layer")) +
                       ".");
  if (!record.sink_formed) {
    statements.push_back("No sink has formed (the excess is not above 2 at the lower end of its interval), so there is "
                         "nothing that the tests could remove or move: read their numbers as noise.");
    return statements;
  }
  statements.push_back(knock_outs(record, "knock_out_mlp", "MLP's"));
  statements.push_back(knock_outs(record, "knock_out_attention", "attention's"));
  for (const CausalTest* test : of_kind(record, "transplant"))
    if (test->layer == record.source_layer)
      statements.push_back("The state of position 0 after " + layer_of(*test) + ", written to position " +
                           std::to_string(record.position) + ": " + at_other(*test, before, record.position) + ".");
  if (const auto tests = of_kind(record, "transplant"); !tests.empty()) {
    const CausalTest& most = largest(tests, [](const CausalTest& test) { return test.moved.value; });
    if (most.layer != record.source_layer)
      statements.push_back("It moves most from " + layer_of(most) + ": " + at_other(most, before, record.position) +
                           ".");
  }
  for (const auto& [kind, what] :
       {std::pair{"transplant_random_direction", "A random direction of the same norm"},
        std::pair{"transplant_small", "The same direction at the norm of the other positions"}})
    for (const CausalTest* test : of_kind(record, kind))
      statements.push_back(std::string(what) + " instead moves " + share_text(test->moved) + ".");
  for (const CausalTest* test : of_kind(record, "isolate"))
    statements.push_back("With position " + std::to_string(record.position) +
                         " attending to itself alone in the layers below " + std::to_string(*test->layer) + " " +
                         at_other(*test, before, record.position) +
                         "; its attention to itself alone accounts for up to " +
                         percent_of(isolation_by_itself(record, *test)) + " of the sink at 0.");
  for (const CausalTest* test : of_kind(record, "rotary_shift"))
    statements.push_back("With rotary index " + std::to_string(*test->layer) + " at position 0 its excess is " +
                         plain(test->first.excess) + ".");
  for (const CausalControl& control : record.controls)
    if (control.set != record.set)
      statements.push_back("On " + control.set + " (T = " + std::to_string(control.length) +
                           (record.with_bos && !control.with_bos ? ", without BOS" : "") +
                           ") the excess of position 0 is " + plain(control.first.excess) + ", its sink rate " +
                           share_text(control.first.rate) + ".");
  return statements;
}

}  // namespace sinkscope
