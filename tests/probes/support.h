// A probe record computed from the reference decoder by the definitions alone, and small models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/config/config.h"
#include "engine/data/memory_stream.h"
#include "engine/metrics/records.h"
#include "engine/model/parameters.h"
#include "engine/probes/probe_sets.h"

namespace sinkscope::test {

constexpr std::int64_t kLength = 20, kVocab = 31;  // of probe sets
constexpr std::int32_t kBos = 29, kEos = 30;

inline std::size_t at(std::int64_t value) { return static_cast<std::size_t>(value); }

/// Resolved models of 3 layers that differ in every switch; the last two have sink logits.
std::vector<ModelConfig> small_models();

/// Initial values scaled up, so that attention is far from uniform and norms differ by position.
std::vector<float> strong_parameters(const ParameterLayout& layout, std::uint64_t seed);

/// Every field of the record in double precision, from METRICS sections 1 to 3 as they are written.
/// `margin` receives the smallest distance of a sink score from the threshold.
ProbeRecord expected_record(const ModelConfig& model, const ParameterLayout& layout, std::span<const float> parameters,
                            const ProbeConfig& config, const ProbeSet& set, double& margin);

/// `tokens` tokens in [0, vocab) with an EOS now and then.
MemoryStream random_stream(std::int64_t tokens, std::int64_t vocab, std::int32_t eos_id);

}  // namespace sinkscope::test
