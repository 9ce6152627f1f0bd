// The switches of a configuration. Their JSON names are in enums.cpp, one table an enum.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

namespace sinkscope {

enum class ModelPreset : std::uint8_t { gpt2, llama, qwen2, qwen3, gpt_neox };
enum class NormType : std::uint8_t { layernorm, rmsnorm };
enum class PositionEncoding : std::uint8_t { learned, rope, none };
/// gelu: in tanh form; gelu_erf: GELU itself; swiglu: gated (GeluForward, SwigluForward in kernels/ops.h).
enum class MlpType : std::uint8_t { gelu, gelu_erf, swiglu };
/// A logit of each head that stands beside the scores of every query, without a key and a value (AttentionForward in
/// kernels/ops.h): none; 0, for weights exp(s_k) / (1 + sum_j exp(s_j)); a parameter of each layer and head.
enum class AttentionSink : std::uint8_t { none, off_by_one, learned };
/// gpt2: normal(0, std), residual projections scaled by 1/sqrt(2L), positions std/2 (Radford et al.
/// 2019); llama: normal(0, std) everywhere, as the other families' reference implementations do.
enum class InitScheme : std::uint8_t { gpt2, llama };
/// none: windows of the packed stream; sequence: one BOS at position 0 of every window; document:
/// one BOS at each document start.
enum class BosPolicy : std::uint8_t { none, sequence, document };
enum class ScheduleType : std::uint8_t { cosine, linear, wsd, constant };
enum class Device : std::uint8_t { automatic, cpu, cuda };
/// What the backward pass computes again instead of reading it: nothing; of each block norm2, the MLP's up
/// projection and activation; everything but each block's input. The results are the same bits.
enum class Recompute : std::uint8_t { none, mlp, block };
/// What activations and products are computed in; master weights and sums are fp32 always. fp8: FP8 products of the
/// blocks' linear maps (Fp8Linear in kernels/ops.h), all else as with automatic.
enum class Precision : std::uint8_t { automatic, fp32, bf16, fp8 };
/// What each rank has its share of alone, instead of all: nothing; the optimizer's state; the summed gradients as well;
/// the parameters too.
enum class Shard : std::uint8_t { none, optimizer, gradients, parameters };
/// What gradients travel between ranks in; they are added up in fp32.
enum class ReduceDType : std::uint8_t { fp32, bf16 };

/// The JSON names of an enum's values, in order.
template <class Enum>
std::span<const std::pair<Enum, std::string_view>> enum_names();

template <>
std::span<const std::pair<ModelPreset, std::string_view>> enum_names<ModelPreset>();
template <>
std::span<const std::pair<NormType, std::string_view>> enum_names<NormType>();
template <>
std::span<const std::pair<PositionEncoding, std::string_view>> enum_names<PositionEncoding>();
template <>
std::span<const std::pair<MlpType, std::string_view>> enum_names<MlpType>();
template <>
std::span<const std::pair<AttentionSink, std::string_view>> enum_names<AttentionSink>();
template <>
std::span<const std::pair<InitScheme, std::string_view>> enum_names<InitScheme>();
template <>
std::span<const std::pair<BosPolicy, std::string_view>> enum_names<BosPolicy>();
template <>
std::span<const std::pair<ScheduleType, std::string_view>> enum_names<ScheduleType>();
template <>
std::span<const std::pair<Recompute, std::string_view>> enum_names<Recompute>();
template <>
std::span<const std::pair<Device, std::string_view>> enum_names<Device>();
template <>
std::span<const std::pair<Precision, std::string_view>> enum_names<Precision>();
template <>
std::span<const std::pair<Shard, std::string_view>> enum_names<Shard>();
template <>
std::span<const std::pair<ReduceDType, std::string_view>> enum_names<ReduceDType>();

/// The JSON name of a value, e.g. "rmsnorm"; `Device::automatic` is "auto".
template <class Enum>
std::string_view to_string(Enum value) {
  for (const auto& [candidate, name] : enum_names<Enum>())
    if (candidate == value) return name;
  return "unknown";
}

}  // namespace sinkscope
