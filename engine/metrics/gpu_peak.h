// What a GPU could do at most.
#pragma once

#include <optional>
#include <string_view>

namespace sinkscope {

/// Dense bf16 tensor-core peak in FLOP/s, fp32 accumulation, of the GPU whose driver calls it `name`, by
/// its datasheet. Nothing for a name that is not in the table, a slice of a GPU (MIG) among them: a
/// utilisation against a guessed peak would be a wrong number.
std::optional<double> datasheet_bf16_flops(std::string_view name);

}  // namespace sinkscope
