#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"

namespace sinkscope {

const CpuOps::RotaryTable& CpuOps::rotary_table(const Rotation& rotation, std::int64_t width, std::int64_t length) {
  const double theta = rotation.theta;
  const std::int64_t half = width / 2;
  length = std::max(length, rotation.first_index + 1);
  RotaryTable* found = nullptr;
  for (RotaryTable& table : rotary_tables_)
    if (table.theta == theta && table.half == half) found = &table;
  if (found == nullptr) {
    found = &rotary_tables_.emplace_back();
    found->theta = theta;
    found->half = half;
  }
  if (found->length < length) {
    found->cosine.resize(static_cast<std::size_t>(length * half));
    found->sine.resize(static_cast<std::size_t>(length * half));
    for (std::int64_t t = found->length; t < length; ++t) {
      for (std::int64_t d = 0; d < half; ++d) {
        const double angle =
            static_cast<double>(t) * std::pow(theta, -static_cast<double>(d) / static_cast<double>(half));
        found->cosine[static_cast<std::size_t>(t * half + d)] = static_cast<float>(std::cos(angle));
        found->sine[static_cast<std::size_t>(t * half + d)] = static_cast<float>(std::sin(angle));
      }
    }
    found->length = length;
  }
  return *found;
}

void CpuOps::RotaryTable::rotate(float* vectors, std::int64_t heads, std::int64_t head_dim, std::int64_t index,
                                 float sign) const {
  const float* cosines = cosine.data() + index * half;
  const float* sines = sine.data() + index * half;
  for (std::int64_t h = 0; h < heads; ++h) {
    float* low = vectors + h * head_dim;
    float* high = low + half;
#pragma omp simd
    for (std::int64_t d = 0; d < half; ++d) {
      const float first = low[d];
      const float second = high[d];
      const float s = sign * sines[d];
      low[d] = first * cosines[d] - second * s;
      high[d] = second * cosines[d] + first * s;
    }
  }
}

void CpuOps::rope(const Rope& args) {
  const Check check("rope");
  const std::int64_t width = check_rope(check, args, DType::f32);
  const Rotation rotation{width, args.theta, args.first_index};
  const std::int64_t length = args.qkv.extent(1);
  const std::int64_t row_heads = args.qkv.extent(2);
  const std::int64_t head_dim = args.qkv.extent(3);
  const std::int64_t rows = args.qkv.extent(0) * length;
  const std::int64_t heads = args.heads;
  const RotaryTable& table = rotary_table(rotation, width, length);
  const float sign = args.inverse ? -1.0F : 1.0F;
  float* qkv = args.qkv.as<float>();
  parallel_range(threads_, rows, heads * width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n)
      table.rotate(qkv + n * row_heads * head_dim, heads, head_dim, rotation.index(n % length), sign);
  });
}

}  // namespace sinkscope
