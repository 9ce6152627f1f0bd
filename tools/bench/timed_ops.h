// A backend that does what another does, and takes the time of every operation where it stands in a step.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/model/decoder.h"
#include "kernels/forwarding_ops.h"

namespace sinkscope {

/// What the operations of a step are put together by, in the order of a table.
enum class Stage : std::uint8_t { embedding, norms, projections, attention, mlp, head, optimizer, probes, copies };
constexpr int kStages = 9;
const char* name_of(Stage stage);

/// One call of an operation.
struct TimedCall {
  Stage stage{};
  std::string name;                    // "linear down dx, gelu gradient, bias, dweight"
  std::vector<std::string> kernels{};  // the kernel cases (kernels.h) that it does
  std::int64_t rows = 0;               // of linear maps and losses
  std::optional<double> bytes{};       // where no case is named: read and written; absent: not known
  double ms = 0;
};

/// Operations of probe passes and causal tests, which are not of a training step, are not timed.
class TimedOps final : public ForwardingOps {
 public:
  explicit TimedOps(Ops& inner) : ForwardingOps(inner) {}

  /// From now on every operation is timed, of steps on this decoder, whose linear maps are told apart by their weights.
  void begin(const Decoder& decoder);
  /// Waits for them; their times in order, by the device's own clock. Those to come are not timed.
  std::vector<TimedCall> end();

  void copy_from_host(const Tensor& dst, const void* src) override;
  void copy_to_host(void* dst, const Tensor& src) override;
  std::function<void()> copy_to_host_later(void* dst, const Tensor& src) override;
  void copy(const Tensor& dst, const Tensor& src) override;
  void zero(const Tensor& dst) override;
  void zero_each(std::span<const Tensor> arrays) override;
  void convert(const Tensor& dst, const Tensor& src) override;

  void embedding_forward(const EmbeddingForward& args) override;
  void embedding_backward(const EmbeddingBackward& args) override;
  void norm_forward(const NormForward& args) override;
  void norm_backward(const NormBackward& args) override;
  void linear_forward(const LinearForward& args) override;
  void linear_backward(const LinearBackward& args) override;
  void rope(const Rope& args) override;
  void qk_norm_forward(const QkNormForward& args) override;
  void qk_norm_backward(const QkNormBackward& args) override;
  void attention_forward(const AttentionForward& args) override;
  void attention_backward(const AttentionBackward& args) override;
  void gelu_forward(const GeluForward& args) override;
  void gelu_backward(const GeluBackward& args) override;
  void swiglu_forward(const SwigluForward& args) override;
  void swiglu_backward(const SwigluBackward& args) override;
  void add(const Tensor& out, const Tensor& a, const Tensor& b) override;
  void cross_entropy(const CrossEntropy& args) override;
  void sum_of_squares(const SumOfSquares& args) override;
  void clip_scale(const ClipScale& args) override;
  void adamw_step(const AdamwStep& args) override;
  void sink_sums(const SinkSums& args) override;
  void norm_sums(const NormSums& args) override;

  void range_push(const char* name, std::int64_t index) noexcept override;
  void range_pop() noexcept override;

 private:
  /// A weight's linear map.
  struct LinearMap {
    std::string name;  // as the kernel cases have it
    Stage stage{};
  };
  const LinearMap& linear_map(const Tensor& weight) const;

  /// Does `call` between two marks; `describe` gives its TimedCall.
  template <class Describe, class Call>
  void timed(const Describe& describe, const Call& call);
  /// Of an operation that is one kernel case, whole.
  template <class Call>
  void timed(Stage stage, const char* kernel, const Call& call);

  bool timing_ = false;
  std::vector<TimedCall> calls_;
  std::map<const void*, LinearMap> linear_maps_;  // by the weight's place
  int depth_ = 0, recompute_depth_ = 0;  // of the open ranges, and of the one that computes again; 0: none
};

}  // namespace sinkscope
