#include "engine/config/enums.h"

#include <array>

namespace sinkscope {
namespace {

template <class Enum, std::size_t N>
using Names = std::array<std::pair<Enum, std::string_view>, N>;

constexpr Names<ModelPreset, 5> kModelPresets{{{ModelPreset::gpt2, "gpt2"},
                                               {ModelPreset::llama, "llama"},
                                               {ModelPreset::qwen2, "qwen2"},
                                               {ModelPreset::qwen3, "qwen3"},
                                               {ModelPreset::gpt_neox, "gpt_neox"}}};
constexpr Names<NormType, 2> kNormTypes{{{NormType::layernorm, "layernorm"}, {NormType::rmsnorm, "rmsnorm"}}};
constexpr Names<PositionEncoding, 3> kPositionEncodings{{{PositionEncoding::learned, "learned"},
                                                         {PositionEncoding::rope, "rope"},
                                                         {PositionEncoding::none, "none"}}};
constexpr Names<MlpType, 3> kMlpTypes{{
    {MlpType::gelu, "gelu"}, {MlpType::gelu_erf, "gelu_erf"}, {MlpType::swiglu, "swiglu"}}};
constexpr Names<AttentionSink, 3> kAttentionSinks{{{AttentionSink::none, "none"},
                                                   {AttentionSink::off_by_one, "off_by_one"},
                                                   {AttentionSink::learned, "learned"}}};
constexpr Names<InitScheme, 2> kInitSchemes{{{InitScheme::gpt2, "gpt2"}, {InitScheme::llama, "llama"}}};
constexpr Names<BosPolicy, 3> kBosPolicies{{
    {BosPolicy::none, "none"}, {BosPolicy::sequence, "sequence"}, {BosPolicy::document, "document"}}};
constexpr Names<ScheduleType, 4> kScheduleTypes{{{ScheduleType::cosine, "cosine"},
                                                 {ScheduleType::linear, "linear"},
                                                 {ScheduleType::wsd, "wsd"},
                                                 {ScheduleType::constant, "constant"}}};
constexpr Names<Recompute, 3> kRecomputes{{
    {Recompute::none, "none"}, {Recompute::mlp, "mlp"}, {Recompute::block, "block"}}};
constexpr Names<Device, 3> kDevices{{{Device::automatic, "auto"}, {Device::cpu, "cpu"}, {Device::cuda, "cuda"}}};
constexpr Names<Precision, 4> kPrecisions{{
    {Precision::automatic, "auto"}, {Precision::fp32, "fp32"}, {Precision::bf16, "bf16"}, {Precision::fp8, "fp8"}}};
constexpr Names<Shard, 4> kShards{{{Shard::none, "none"}, {Shard::optimizer, "optimizer"},
                                   {Shard::gradients, "gradients"}, {Shard::parameters, "parameters"}}};
constexpr Names<ReduceDType, 2> kReduceDTypes{{{ReduceDType::fp32, "fp32"}, {ReduceDType::bf16, "bf16"}}};

}  // namespace

template <>
std::span<const std::pair<ModelPreset, std::string_view>> enum_names<ModelPreset>() {
  return kModelPresets;
}
template <>
std::span<const std::pair<NormType, std::string_view>> enum_names<NormType>() {
  return kNormTypes;
}
template <>
std::span<const std::pair<PositionEncoding, std::string_view>> enum_names<PositionEncoding>() {
  return kPositionEncodings;
}
template <>
std::span<const std::pair<MlpType, std::string_view>> enum_names<MlpType>() {
  return kMlpTypes;
}
template <>
std::span<const std::pair<AttentionSink, std::string_view>> enum_names<AttentionSink>() {
  return kAttentionSinks;
}
template <>
std::span<const std::pair<InitScheme, std::string_view>> enum_names<InitScheme>() {
  return kInitSchemes;
}
template <>
std::span<const std::pair<BosPolicy, std::string_view>> enum_names<BosPolicy>() {
  return kBosPolicies;
}
template <>
std::span<const std::pair<ScheduleType, std::string_view>> enum_names<ScheduleType>() {
  return kScheduleTypes;
}
template <>
std::span<const std::pair<Recompute, std::string_view>> enum_names<Recompute>() {
  return kRecomputes;
}
template <>
std::span<const std::pair<Device, std::string_view>> enum_names<Device>() {
  return kDevices;
}
template <>
std::span<const std::pair<Precision, std::string_view>> enum_names<Precision>() {
  return kPrecisions;
}
template <>
std::span<const std::pair<Shard, std::string_view>> enum_names<Shard>() {
  return kShards;
}
template <>
std::span<const std::pair<ReduceDType, std::string_view>> enum_names<ReduceDType>() {
  return kReduceDTypes;
}

}  // namespace sinkscope
