#include "engine/train/non_finite.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sinkscope {
namespace {

bool all_finite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

class FiniteCheck final : public ActivationObserver {
 public:
  explicit FiniteCheck(Ops& ops) : ops_(ops) {}

  void embedding(const Tensor& h) override { look("embedding output", h); }
  void block(const BlockActivations& b) override {
    const std::string name = "blocks." + std::to_string(b.layer);
    look(name + ".attention queries, keys and values", b.qkv);
    look(name + ".attention log-sum-exp", b.lse);
    look(name + ".attention output", b.attention_output);
    look(name + ".residual after attention", b.middle);
    look(name + ".mlp output", b.mlp_output);
    look(name + ".residual", b.output);
  }
  void look(const std::string& name, const Tensor& tensor) {
    if (!first_.empty()) return;
    raw_.resize(tensor.bytes());
    values_.resize(static_cast<std::size_t>(tensor.size()));
    ops_.copy_to_host(raw_.data(), tensor);
    widen(raw_, tensor.dtype, values_);
    if (!all_finite(values_)) first_ = name;
  }
  const std::string& first() const { return first_; }

 private:
  Ops& ops_;
  std::vector<std::byte> raw_;
  std::vector<float> values_;
  std::string first_;
};

}  // namespace

std::string first_non_finite(Ops& ops, Decoder& decoder, const Batch& batch) {
  FiniteCheck check(ops);
  decoder.for_each_parameter(
      [&](const ParameterSpec& spec, const Tensor& values) { check.look("parameter " + spec.name, values); });
  decoder.forward(batch.sequences, batch.length, batch.inputs.data(), &check);
  return check.first().empty() ? "logits" : check.first();
}

std::optional<std::string> first_non_finite(const ParameterLayout& layout, std::span<const float> values) {
  for (const ParameterSpec& spec : layout.specs()) {
    const auto part = values.subspan(static_cast<std::size_t>(spec.offset), static_cast<std::size_t>(spec.size));
    if (!all_finite(part)) return spec.name;
  }
  return std::nullopt;
}

}  // namespace sinkscope
