// Which tensor went wrong first: after a loss that is not finite, and before a model is saved.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "engine/data/sampler.h"
#include "engine/model/decoder.h"
#include "kernels/ops.h"

namespace sinkscope {

/// Looks at the parameters in the layout's order, then runs the batch forward once more and looks at
/// every activation in the order it is computed. Returns the name of the first tensor with an element
/// that is not finite, e.g. "blocks.2.mlp output", or "logits" when all of them are finite.
/// Two passes, in which all ranks take part where parameters are sharded.
std::string first_non_finite(Ops& ops, Decoder& decoder, const Batch& batch);

/// The first parameter, in the layout's order, whose part of `values` (flat, on the host) holds an
/// element that is not finite; nothing when all are finite.
std::optional<std::string> first_non_finite(const ParameterLayout& layout, std::span<const float> values);

}  // namespace sinkscope
