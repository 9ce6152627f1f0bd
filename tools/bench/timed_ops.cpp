#include "tools/bench/timed_ops.h"

#include <array>
#include <stdexcept>
#include <string_view>
#include <utility>

namespace sinkscope {
namespace {

/// "layernorm" or "rmsnorm".
std::string name_of(NormKind kind) { return kind == NormKind::layernorm ? "layernorm" : "rmsnorm"; }

double d(std::size_t bytes) { return static_cast<double>(bytes); }

struct LinearWeight {
  std::string_view parameter;  // the end of its name in ParameterLayout
  const char* name;
  Stage stage;
};

constexpr std::array kLinearWeights = {
    LinearWeight{"attention.qkv.weight", "qkv", Stage::projections},
    LinearWeight{"attention.output.weight", "attention out", Stage::projections},
    LinearWeight{"mlp.gate_up.weight", "gate and up", Stage::mlp},
    LinearWeight{"mlp.up.weight", "up", Stage::mlp},
    LinearWeight{"mlp.down.weight", "down", Stage::mlp},
    LinearWeight{"head.weight", "head", Stage::head},
    LinearWeight{"embed.token.weight", "head", Stage::head},  // tied
};

}  // namespace

const char* name_of(Stage stage) {
  constexpr std::array<const char*, kStages> names = {
      "embedding",     "norms and residual", "attention projections", "attention", "MLP",
      "head and loss", "optimizer",          "per-step probes",       "copies"};
  return names.at(static_cast<std::size_t>(stage));
}

void TimedOps::begin(const Decoder& decoder) {
  linear_maps_.clear();
  const Tensor parameters = decoder.parameters();
  for (const ParameterSpec& spec : decoder.layout().specs())
    for (const LinearWeight& weight : kLinearWeights)
      if (spec.name.ends_with(weight.parameter))
        linear_maps_[parameters.rows(spec.offset, spec.size).data] = {weight.name, weight.stage};
  calls_.clear();
  timing_ = true;
}

std::vector<TimedCall> TimedOps::end() {
  timing_ = false;
  const std::vector<double> marks = inner_.marked_ms();
  for (std::size_t i = 0; i < calls_.size(); ++i) calls_[i].ms = marks.at(2 * i + 1) - marks.at(2 * i);
  return std::move(calls_);
}

const TimedOps::LinearMap& TimedOps::linear_map(const Tensor& weight) const {
  const auto found = linear_maps_.find(weight.data);
  if (found == linear_maps_.end())
    throw std::logic_error("TimedOps: a linear map of " + describe(weight) + ", which is no parameter of the decoder");
  return found->second;
}

template <class Describe, class Call>
void TimedOps::timed(const Describe& describe, const Call& call) {
  if (!timing_) return call();
  TimedCall& made = calls_.emplace_back(describe());
  if (recompute_depth_ > 0) made.name += ", recomputed";
  inner_.mark();
  call();
  inner_.mark();
}

template <class Call>
void TimedOps::timed(Stage stage, const char* kernel, const Call& call) {
  timed([&] { return TimedCall{.stage = stage, .name = kernel, .kernels = {kernel}}; }, call);
}

// ---- memory ----

// The copy rate is the device's own, which says nothing of copies between it and the host.
void TimedOps::copy_from_host(const Tensor& dst, const void* src) {
  timed([&] { return TimedCall{.stage = Stage::copies, .name = "copy from host"}; },
        [&] { inner_.copy_from_host(dst, src); });
}

void TimedOps::copy_to_host(void* dst, const Tensor& src) {
  timed([&] { return TimedCall{.stage = Stage::copies, .name = "copy to host"}; },
        [&] { inner_.copy_to_host(dst, src); });
}

std::function<void()> TimedOps::copy_to_host_later(void* dst, const Tensor& src) {
  std::function<void()> wait;
  timed([&] { return TimedCall{.stage = Stage::copies, .name = "copy to host"}; },
        [&] { wait = inner_.copy_to_host_later(dst, src); });
  return wait;
}

void TimedOps::copy(const Tensor& dst, const Tensor& src) {
  timed([&] {
    return TimedCall{.stage = Stage::copies, .name = "copy", .bytes = d(dst.bytes() + src.bytes())};
  }, [&] { inner_.copy(dst, src); });
}

void TimedOps::zero(const Tensor& dst) {
  timed([&]() -> TimedCall {
    if (dst.dtype == DType::f64) return {.stage = Stage::probes, .name = "zero step sums", .bytes = d(dst.bytes())};
    if (dst.rank == 1) return {.stage = Stage::optimizer, .name = "zero amax of FP8", .bytes = d(dst.bytes())};
    return {.stage = Stage::norms, .name = "zero residual gradient", .kernels = {"zero residual gradient"}};
  }, [&] { inner_.zero(dst); });
}

/// Gradients between those that products write.
void TimedOps::zero_each(std::span<const Tensor> arrays) {
  timed([&] {
    std::size_t bytes = 0;
    for (const Tensor& array : arrays) bytes += array.bytes();
    return TimedCall{.stage = Stage::optimizer, .name = "zero gradients", .bytes = d(bytes)};
  }, [&] { inner_.zero_each(arrays); });
}

void TimedOps::convert(const Tensor& dst, const Tensor& src) {
  timed([&] {
    return TimedCall{.stage = Stage::optimizer, .name = "convert", .bytes = d(dst.bytes() + src.bytes())};
  }, [&] { inner_.convert(dst, src); });
}

// ---- rows ----

void TimedOps::embedding_forward(const EmbeddingForward& args) {
  timed(
      [&] {
        const std::string name = "embedding forward" + (args.norm.out ? ", " + name_of(args.norm.kind) : "") +
                                 (args.norm.l2 ? ", row norms" : "");
        return TimedCall{.stage = Stage::embedding, .name = name, .kernels = {name}};
      },
      [&] { inner_.embedding_forward(args); });
}

void TimedOps::embedding_backward(const EmbeddingBackward& args) {
  timed(Stage::embedding, "embedding backward", [&] { inner_.embedding_backward(args); });
}

void TimedOps::norm_forward(const NormForward& args) {
  timed([&] {
    const std::string name =
        name_of(args.kind) + " forward" + (args.delta ? ", residual add" : "") + (args.l2 ? ", row norms" : "");
    return TimedCall{.stage = Stage::norms, .name = name, .kernels = {name}};
  }, [&] { inner_.norm_forward(args); });
}

void TimedOps::norm_backward(const NormBackward& args) {
  timed([&] {
    const std::string name = name_of(args.kind) + " backward" + (args.dx_sums ? ", bias of a branch" : "");
    return TimedCall{.stage = Stage::norms, .name = name, .kernels = {name}};
  }, [&] { inner_.norm_backward(args); });
}

void TimedOps::add(const Tensor& out, const Tensor& a, const Tensor& b) {
  timed(Stage::norms, "add", [&] { inner_.add(out, a, b); });
}

// ---- linear maps ----

void TimedOps::linear_forward(const LinearForward& args) {
  timed([&] {
    const LinearMap& map = linear_map(args.weight);
    const std::string name = "linear " + map.name + " forward" + (args.gelu ? ", gelu" : args.swiglu ? ", swiglu" : "");
    return TimedCall{.stage = map.stage, .name = name, .kernels = {name}, .rows = args.x.extent(0)};
  }, [&] { inner_.linear_forward(args); });
}

void TimedOps::linear_backward(const LinearBackward& args) {
  timed([&] {
    const LinearMap& map = linear_map(args.weight);
    const std::string linear = "linear " + map.name + " ";
    const std::string dx = args.dx ? std::string(args.gelu_input     ? "dx, gelu gradient"
                                                 : args.swiglu_input ? "dx, swiglu gradient"
                                                                     : "dx") +
                                         (args.dx_sums ? ", bias" : "")
                                   : "";
    const std::string dweight = args.dweight ? args.dbias ? "dweight, dbias" : "dweight" : "";
    TimedCall call{.stage = map.stage, .name = linear, .rows = args.dout.extent(0)};
    for (const std::string& part : {dx, dweight})
      if (!part.empty()) {
        call.name += (call.kernels.empty() ? "" : ", ") + part;
        call.kernels.push_back(linear + part);
      }
    return call;
  }, [&] { inner_.linear_backward(args); });
}

// ---- attention ----

void TimedOps::rope(const Rope& args) {
  timed([&] {
    const char* name = args.inverse ? "rope backward" : "rope forward";
    return TimedCall{.stage = Stage::attention, .name = name, .kernels = {"rope"}};
  }, [&] { inner_.rope(args); });
}

void TimedOps::qk_norm_forward(const QkNormForward& args) {
  timed(Stage::attention, args.rotation ? "qk-norm and rope forward" : "qk-norm forward",
        [&] { inner_.qk_norm_forward(args); });
}

void TimedOps::qk_norm_backward(const QkNormBackward& args) {
  timed(Stage::attention, args.rotation ? "qk-norm and rope backward" : "qk-norm backward",
        [&] { inner_.qk_norm_backward(args); });
}

void TimedOps::attention_forward(const AttentionForward& args) {
  timed([&] {
    const std::string name = args.sink ? "attention forward, sink scores of " + std::to_string(args.sink.extent(2))
                                       : "attention forward, no sink scores";
    return TimedCall{.stage = Stage::attention, .name = name, .kernels = {name}};
  }, [&] { inner_.attention_forward(args); });
}

void TimedOps::attention_backward(const AttentionBackward& args) {
  timed(
      [&] {
        const std::string name =
            std::string("attention backward") + (args.rotation ? ", rope" : "") + (args.dqkv_sums ? ", bias" : "");
        return TimedCall{.stage = Stage::attention, .name = name, .kernels = {name}};
      },
      [&] { inner_.attention_backward(args); });
}

// ---- MLP and loss ----

void TimedOps::gelu_forward(const GeluForward& args) {
  timed(Stage::mlp, "gelu forward (apart)", [&] { inner_.gelu_forward(args); });
}

void TimedOps::gelu_backward(const GeluBackward& args) {
  timed(Stage::mlp, "gelu backward (apart)", [&] { inner_.gelu_backward(args); });
}

void TimedOps::swiglu_forward(const SwigluForward& args) {
  timed(Stage::mlp, "swiglu forward (apart)", [&] { inner_.swiglu_forward(args); });
}

void TimedOps::swiglu_backward(const SwigluBackward& args) {
  timed(Stage::mlp, "swiglu backward (apart)", [&] { inner_.swiglu_backward(args); });
}

void TimedOps::cross_entropy(const CrossEntropy& args) {
  timed([&] {
    const std::string name = args.gradient ? "cross-entropy, gradient" : "cross-entropy (evaluation)";
    return TimedCall{.stage = Stage::head, .name = name, .kernels = {name}, .rows = args.logits.extent(0)};
  }, [&] { inner_.cross_entropy(args); });
}

// ---- update ----

void TimedOps::sum_of_squares(const SumOfSquares& args) {
  timed(Stage::optimizer, "sum of squares", [&] { inner_.sum_of_squares(args); });
}

void TimedOps::clip_scale(const ClipScale& args) {
  timed(Stage::optimizer, "clip scale", [&] { inner_.clip_scale(args); });
}

void TimedOps::adamw_step(const AdamwStep& args) {
  timed(Stage::optimizer, "adamw", [&] { inner_.adamw_step(args); });
}

// ---- probes ----

void TimedOps::sink_sums(const SinkSums& args) {
  timed(Stage::probes, "sink sums", [&] { inner_.sink_sums(args); });
}

void TimedOps::norm_sums(const NormSums& args) {
  timed(Stage::probes, "norm sums", [&] { inner_.norm_sums(args); });
}

void TimedOps::range_push(const char* name, std::int64_t index) noexcept {
  ++depth_;
  if (recompute_depth_ == 0 && std::string_view(name) == "recompute") recompute_depth_ = depth_;
  inner_.range_push(name, index);
}

void TimedOps::range_pop() noexcept {
  inner_.range_pop();
  if (recompute_depth_ == depth_) recompute_depth_ = 0;
  --depth_;
}

}  // namespace sinkscope
