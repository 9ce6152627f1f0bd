#include <cmath>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/workspace.h"

namespace sinkscope {

void CpuOps::qk_norm_forward(const QkNormForward& args) {
  const Check check("qk_norm_forward");
  const AttentionExtents extents = check_attention(check, "in", args.in, args.query_heads, args.kv_heads);
  const std::int64_t row_heads = extents.row_heads();
  const std::int64_t normed_heads = extents.query_heads + extents.kv_heads;
  const std::int64_t head_dim = extents.head_dim;
  const std::int64_t rows = extents.sequences * extents.length;
  check.shape("out", args.out, DType::f32, {extents.sequences, extents.length, row_heads, head_dim});
  check.that(args.out.data != args.in.data, "out", "aliases in");
  check.shape("q_weight", args.q_weight, DType::f32, {head_dim});
  check.shape("k_weight", args.k_weight, DType::f32, {head_dim});
  check.shape("rstd", args.rstd, DType::f32, {rows, normed_heads});
  const RotaryTable* table = nullptr;
  if (args.rotation)
    table = &rotary_table(*args.rotation, check_rotation(check, "in", args.in, *args.rotation), extents.length);

  const float* in = args.in.as<float>();
  const float* q_weight = args.q_weight.as<float>();
  const float* k_weight = args.k_weight.as<float>();
  float* out = args.out.as<float>();
  float* rstds = args.rstd.as<float>();
  parallel_range(threads_, rows, row_heads * head_dim, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      for (std::int64_t h = 0; h < normed_heads; ++h) {
        const float* row = in + (n * row_heads + h) * head_dim;
        float* normed = out + (n * row_heads + h) * head_dim;
        const float* weight = h < extents.query_heads ? q_weight : k_weight;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (std::int64_t d = 0; d < head_dim; ++d) squares += row[d] * row[d];
        const float rstd = 1.0F / std::sqrt(squares / static_cast<float>(head_dim) + args.eps);
        rstds[n * normed_heads + h] = rstd;
#pragma omp simd
        for (std::int64_t d = 0; d < head_dim; ++d) normed[d] = row[d] * rstd * weight[d];
      }
      if (table != nullptr)
        table->rotate(out + n * row_heads * head_dim, normed_heads, head_dim,
                      args.rotation->index(n % extents.length), 1.0F);
      const std::int64_t values = (n * row_heads + normed_heads) * head_dim;
      std::memcpy(out + values, in + values, static_cast<std::size_t>(extents.kv_heads * head_dim) * sizeof(float));
    }
  });
}

void CpuOps::qk_norm_backward(const QkNormBackward& args) {
  const Check check("qk_norm_backward");
  const AttentionExtents extents = check_attention(check, "in", args.in, args.query_heads, args.kv_heads);
  const std::int64_t row_heads = extents.row_heads();
  const std::int64_t normed_heads = extents.query_heads + extents.kv_heads;
  const std::int64_t head_dim = extents.head_dim;
  const std::int64_t rows = extents.sequences * extents.length;
  check.shape("dqkv", args.dqkv, DType::f32, {extents.sequences, extents.length, row_heads, head_dim});
  check.shape("q_weight", args.q_weight, DType::f32, {head_dim});
  check.shape("k_weight", args.k_weight, DType::f32, {head_dim});
  check.shape("rstd", args.rstd, DType::f32, {rows, normed_heads});
  check.shape("dq_weight", args.dq_weight, DType::f32, {head_dim});
  check.shape("dk_weight", args.dk_weight, DType::f32, {head_dim});
  const RotaryTable* table = nullptr;
  if (args.rotation)
    table = &rotary_table(*args.rotation, check_rotation(check, "in", args.in, *args.rotation), extents.length);

  const float* in = args.in.as<float>();
  const float* q_weight = args.q_weight.as<float>();
  const float* k_weight = args.k_weight.as<float>();
  const float* rstds = args.rstd.as<float>();
  float* dqkv = args.dqkv.as<float>();
  const int parts = part_count(threads_, rows, row_heads * head_dim);
  const std::int64_t stride = round_to_line(head_dim);
  float* q_partials = workspace_.take<float>(2 * parts * stride);
  float* k_partials = q_partials + parts * stride;
  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    float* dq_weight = q_partials + part * stride;
    float* dk_weight = k_partials + part * stride;
    std::fill_n(dq_weight, head_dim, 0.0F);
    std::fill_n(dk_weight, head_dim, 0.0F);
    for (std::int64_t n = begin; n < end; ++n) {
      if (table != nullptr)
        table->rotate(dqkv + n * row_heads * head_dim, normed_heads, head_dim,
                      args.rotation->index(n % extents.length), -1.0F);
      for (std::int64_t h = 0; h < normed_heads; ++h) {
        const bool query = h < extents.query_heads;
        const float* row = in + (n * row_heads + h) * head_dim;
        float* gradient = dqkv + (n * row_heads + h) * head_dim;
        const float* weight = query ? q_weight : k_weight;
        float* dweight = query ? dq_weight : dk_weight;
        const float rstd = rstds[n * normed_heads + h];
        float projection = 0;
#pragma omp simd reduction(+ : projection)
        for (std::int64_t d = 0; d < head_dim; ++d) {
          const float xhat = row[d] * rstd;
          projection += gradient[d] * weight[d] * xhat;
          dweight[d] += gradient[d] * xhat;
        }
        const float mean = projection / static_cast<float>(head_dim);
#pragma omp simd
        for (std::int64_t d = 0; d < head_dim; ++d)
          gradient[d] = rstd * (gradient[d] * weight[d] - row[d] * rstd * mean);
      }
    }
  });
  add_partials(threads_, parts, q_partials, stride, head_dim, args.dq_weight.as<float>());
  add_partials(threads_, parts, k_partials, stride, head_dim, args.dk_weight.as<float>());
}

}  // namespace sinkscope
