// Backward of causal attention, after FlashAttention-2 (Dao 2023): with s = scale q.k,
// P = exp(s - lse), dP = dout.v, delta_t = dout_t.out_t, dS = P (dP - delta):
// dv = P^T dout, dq = scale dS k, dk = scale dS^T q. A sink logit z is one more score, whose value is 0:
// dz = sum_t exp(z - lse_t) (0 - delta_t). One task is one key/value head of one sequence with all its query
// heads, so that every gradient has one writer.
#include <cmath>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace sinkscope {
namespace {

/// Scratch memory of one thread; (rows, width) unless said otherwise.
struct Scratch {
  float* query = nullptr;  // scaled
  float* key = nullptr;
  float* key_transposed = nullptr;  // (D, rows)
  float* value = nullptr;
  float* value_transposed = nullptr;  // (D, rows)
  float* dout = nullptr;
  float* dkey = nullptr;
  float* dvalue = nullptr;
  float* dquery = nullptr;  // (kQueryTile, width)
  float* weights = nullptr;   // (kQueryTile, kKeyTile): P
  float* dscores = nullptr;   // (kQueryTile, kKeyTile): dP, then dS
  float* lse = nullptr;       // (rows)
  float* delta = nullptr;     // (rows)

  static std::int64_t size(const HeadExtents& head) {
    return 8 * head.size() + kQueryTile * head.width + 2 * kQueryTile * kKeyTile + 2 * round_to_line(head.rows);
  }
  Scratch(const HeadExtents& head, float* at)
      : query(at),
        key(query + head.size()),
        key_transposed(key + head.size()),
        value(key_transposed + head.size()),
        value_transposed(value + head.size()),
        dout(value_transposed + head.size()),
        dkey(dout + head.size()),
        dvalue(dkey + head.size()),
        dquery(dvalue + head.size()),
        weights(dquery + kQueryTile * head.width),
        dscores(weights + kQueryTile * kKeyTile),
        lse(dscores + kQueryTile * kKeyTile),
        delta(lse + round_to_line(head.rows)) {}
};

/// One row: `weights` holds scores and becomes P, `dscores` holds dP and becomes dS; both are 0 from
/// `valid` up to `padded`.
void gradient_row(float* weights, float* dscores, std::int64_t valid, std::int64_t padded, float lse, float delta) {
#pragma omp simd
  for (std::int64_t k = 0; k < valid; ++k) {
    const float weight = vector_exp(weights[k] - lse);
    weights[k] = weight;
    dscores[k] = weight * (dscores[k] - delta);
  }
  std::fill(weights + valid, weights + padded, 0.0F);
  std::fill(dscores + valid, dscores + padded, 0.0F);
}

/// sum_t exp(z - lse_t) delta_t of one head: minus the gradient of its sink logit z.
double sink_gradient(float sink_logit, const float* lse, const float* delta, std::int64_t length) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t t = 0; t < length; ++t) sum += static_cast<double>(vector_exp(sink_logit - lse[t]) * delta[t]);
  return sum;
}

/// The tile of queries at q0 against the tile of keys at k0: adds to dquery, dkey and dvalue.
void backward_tile(const HeadExtents& head, const Scratch& scratch, std::int64_t q0, std::int64_t k0) {
  const std::int64_t width = head.width;
  const std::int64_t queries = tile_queries(head, q0);
  for (std::int64_t strip = 0; strip < queries; strip += kStripRows) {
    if (k0 > q0 + strip) continue;
    const std::int64_t keys = strip_keys(q0 + strip, k0);
    float* weights = scratch.weights + strip * kKeyTile;
    float* dscores = scratch.dscores + strip * kKeyTile;
    strip_products(head, scratch.query, scratch.key_transposed, q0 + strip, k0, weights);
    strip_products(head, scratch.dout, scratch.value_transposed, q0 + strip, k0, dscores);
    for (std::int64_t r = 0; r < kStripRows; ++r) {
      const std::int64_t t = q0 + strip + r;
      gradient_row(weights + r * kKeyTile, dscores + r * kKeyTile, std::min(keys, t - k0 + 1), round_up(keys, kLanes),
                   scratch.lse[t], scratch.delta[t]);
    }
    strip_gemm<StripOf::rows>(dscores, kKeyTile, scratch.key + k0 * width, width, scratch.dquery + strip * width, width,
                              width, keys, true);
  }
  const std::int64_t keys = std::min(kKeyTile, q0 + queries - k0);
  for (std::int64_t strip = 0; strip < keys; strip += kStripRows) {
    const std::int64_t first = std::max<std::int64_t>(0, k0 + strip - q0);  // the first query that sees the strip
    const std::int64_t at = (k0 + strip) * width;
    strip_gemm<StripOf::columns>(scratch.weights + first * kKeyTile + strip, kKeyTile,
                                 scratch.dout + (q0 + first) * width, width, scratch.dvalue + at, width, width,
                                 queries - first, true);
    strip_gemm<StripOf::columns>(scratch.dscores + first * kKeyTile + strip, kKeyTile,
                                 scratch.query + (q0 + first) * width, width, scratch.dkey + at, width, width,
                                 queries - first, true);
  }
}

}  // namespace

void CpuOps::attention_backward(const AttentionBackward& args) {
  const Check check("attention_backward");
  const AttentionExtents extents = check_attention(check, "qkv", args.qkv, args.query_heads, args.kv_heads);
  const std::int64_t sequences = extents.sequences;
  const std::int64_t length = extents.length;
  const std::int64_t heads = extents.query_heads;
  const std::int64_t kv_heads = extents.kv_heads;
  const std::int64_t head_dim = extents.head_dim;
  check.shape("out", args.out, DType::f32, {sequences, length, heads, head_dim});
  check.shape("dout", args.dout, DType::f32, {sequences, length, heads, head_dim});
  check.shape("lse", args.lse, DType::f32, {sequences, heads, length});
  check.shape("dqkv", args.dqkv, DType::f32, {sequences, length, extents.row_heads(), head_dim});
  check_sink_logits(check, args.sink_logits, DType::f32, heads, "dsink_logits", args.dsink_logits, {heads});
  check.optional_shape("dqkv_sums", args.dqkv_sums, DType::f32, {extents.row_stride()});
  if (args.rotation) check_rotation(check, "qkv", args.qkv, *args.rotation);
  if (sequences == 0 || length == 0) return;

  const HeadExtents head(extents);
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  const float* qkv = args.qkv.as<float>();
  const float* outs = args.out.as<float>();
  const float* douts = args.dout.as<float>();
  const float* lses = args.lse.as<float>();
  float* dqkv = args.dqkv.as<float>();
  const std::int64_t stride = extents.row_stride();
  const std::int64_t out_stride = heads * head_dim;
  const float* sink_logits = args.dsink_logits ? args.sink_logits.as<float>() : nullptr;
  const std::int64_t scratch_size = round_to_line(Scratch::size(head));
  const std::int64_t sums_size = sink_logits == nullptr ? 0 : 2 * round_to_line(sequences * heads);
  auto* scratch_memory = workspace_.take<float>(threads_ * scratch_size + sums_size);
  auto* sink_sums = reinterpret_cast<double*>(scratch_memory + threads_ * scratch_size);  // (B, H)

  parallel_tasks(threads_, sequences * kv_heads, [&](int thread, std::int64_t task) {
    const std::int64_t b = task / kv_heads;
    const std::int64_t g = task % kv_heads;
    const Scratch scratch(head, scratch_memory + thread * scratch_size);
    gather_head(head, qkv + extents.offset(b, 0, heads + g), stride, 1.0F, scratch.key);
    transpose_head(head, scratch.key, scratch.key_transposed);
    gather_head(head, qkv + extents.offset(b, 0, heads + kv_heads + g), stride, 1.0F, scratch.value);
    transpose_head(head, scratch.value, scratch.value_transposed);
    std::fill_n(scratch.dkey, head.size(), 0.0F);
    std::fill_n(scratch.dvalue, head.size(), 0.0F);

    for (std::int64_t h = g * extents.group(); h < (g + 1) * extents.group(); ++h) {
      const std::int64_t out_at = b * length * out_stride + h * head_dim;
      gather_head(head, qkv + extents.offset(b, 0, h), stride, scale, scratch.query);
      gather_head(head, douts + out_at, out_stride, 1.0F, scratch.dout);
      std::fill_n(scratch.lse, head.rows, 0.0F);
      std::fill_n(scratch.delta, head.rows, 0.0F);
      std::copy_n(lses + (b * heads + h) * length, length, scratch.lse);
      for (std::int64_t t = 0; t < length; ++t) {
        const float* out = outs + out_at + t * out_stride;
        const float* dout = douts + out_at + t * out_stride;
        float delta = 0;
#pragma omp simd reduction(+ : delta)
        for (std::int64_t d = 0; d < head_dim; ++d) delta += out[d] * dout[d];
        scratch.delta[t] = delta;
      }
      if (sink_logits != nullptr)
        sink_sums[b * heads + h] = sink_gradient(sink_logits[h], scratch.lse, scratch.delta, length);
      for (std::int64_t q0 = 0; q0 < length; q0 += kQueryTile) {
        const std::int64_t queries = tile_queries(head, q0);
        std::fill_n(scratch.dquery, queries * head.width, 0.0F);
        for (std::int64_t k0 = 0; k0 < q0 + queries; k0 += kKeyTile) backward_tile(head, scratch, q0, k0);
        HeadExtents tile = head;
        tile.length = std::min(queries, length - q0);
        scatter_head(tile, scratch.dquery, scale, dqkv + extents.offset(b, q0, h), stride);
      }
    }
    // The copy of the queries is scaled, so dkey is, too.
    scatter_head(head, scratch.dkey, 1.0F, dqkv + extents.offset(b, 0, heads + g), stride);
    scatter_head(head, scratch.dvalue, 1.0F, dqkv + extents.offset(b, 0, heads + kv_heads + g), stride);
  });
  if (sink_logits != nullptr) {
    auto* dsink_logits = args.dsink_logits.as<float>();
    for (std::int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (std::int64_t b = 0; b < sequences; ++b) sum += sink_sums[b * heads + h];
      dsink_logits[h] -= static_cast<float>(sum);
    }
  }
  if (args.rotation) rope(rope_back(args));
  if (args.dqkv_sums) add_column_sums(args.dqkv_sums, args.dqkv.view({sequences * length, stride}));
}

}  // namespace sinkscope
