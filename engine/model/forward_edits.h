// Forward passes with changes on their way: what causal tests do to a frozen model.
#pragma once

#include <cstdint>

#include "engine/config/config.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace sinkscope {

/// Which contribution to the residual stream.
enum class Branch : std::uint8_t { attention, mlp };

/// Changes to a forward pass, in every sequence. What keeps its defaults is not asked for.
struct ForwardEdits {
  /// The branch's contribution to one position is zero in this layer.
  struct KnockOut {
    Branch branch = Branch::mlp;
    std::int64_t layer = -1;
    std::int64_t position = 0;
  };
  /// h^layer at one position is this vector.
  struct Transplant {
    std::int64_t layer = -1;
    std::int64_t position = 0;
    Tensor vector{};  // (C) real
  };
  /// The query at one position attends to itself alone in the layers below `layers`; a sink logit stays beside it.
  struct Isolation {
    std::int64_t position = -1;
    std::int64_t layers = 0;
  };
  KnockOut knock_out{};
  Transplant transplant{};
  Isolation isolation{};
  std::int64_t first_rotary_index = 0;  // of position 0, in place of 0

  bool any() const {
    return knock_out.layer >= 0 || transplant.layer >= 0 || isolation.layers > 0 || first_rotary_index != 0;
  }
};

/// Throws std::invalid_argument naming the edit that has no place in a pass over `length` positions of the model.
void check_edits(const ForwardEdits& edits, const ModelConfig& model, DType real, std::int64_t length);

/// Row `position` of every sequence of x (B*T, C) becomes `vector` (C), or zeros where none is given.
void set_position(Ops& ops, const Tensor& x, std::int64_t sequences, std::int64_t position, const Tensor& vector);

}  // namespace sinkscope
