// Causal attention with the online softmax of Milakov and Gimelshein (2018) over tiles of keys, as in
// FlashAttention (Dao et al. 2022). One task is one query head of one sequence.
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace sinkscope {
namespace {

/// Scratch memory of one thread.
struct Scratch {
  float* query = nullptr;           // (rows, width), scaled
  float* value = nullptr;           // (rows, width)
  float* key = nullptr;             // (rows, width)
  float* key_transposed = nullptr;  // (D, rows)
  float* out = nullptr;             // (kQueryTile, width)
  float* scores = nullptr;          // (kStripRows, kKeyTile)
  float* watched = nullptr;         // (kQueryTile, K): scores of the watched keys

  static std::int64_t size(const HeadExtents& head, std::int64_t watched) {
    return 4 * head.size() + kQueryTile * head.width + kStripRows * kKeyTile + round_to_line(kQueryTile * watched);
  }
  Scratch(const HeadExtents& head, float* at)
      : query(at),
        value(query + head.size()),
        key(value + head.size()),
        key_transposed(key + head.size()),
        out(key_transposed + head.size()),
        scores(out + kQueryTile * head.width),
        watched(scores + kStripRows * kKeyTile) {}
};

/// Running softmax of the rows of a query tile.
struct Softmax {
  float highest[kQueryTile];
  float sum[kQueryTile];
};

/// One row: scores become exp(score - highest) for the `valid` first keys and 0 up to `padded`; what
/// was summed so far is brought to the new maximum.
void softmax_row(float* scores, std::int64_t valid, std::int64_t padded, float& highest, float& sum, float* out,
                 std::int64_t width) {
  float top = highest;
#pragma omp simd reduction(max : top)
  for (std::int64_t k = 0; k < valid; ++k) top = scores[k] > top ? scores[k] : top;
  float added = 0;
#pragma omp simd reduction(+ : added)
  for (std::int64_t k = 0; k < valid; ++k) {
    scores[k] = vector_exp(scores[k] - top);
    added += scores[k];
  }
  std::fill(scores + valid, scores + padded, 0.0F);
  if (top != highest && sum > 0) {
    const float shrink = std::exp(highest - top);
    sum *= shrink;
#pragma omp simd
    for (std::int64_t d = 0; d < width; ++d) out[d] *= shrink;
  }
  highest = top;
  sum += added;
}

}  // namespace

void CpuOps::attention_forward(const AttentionForward& args) {
  const Check check("attention_forward");
  const AttentionExtents extents = check_attention(check, "qkv", args.qkv, args.query_heads, args.kv_heads);
  const std::int64_t sequences = extents.sequences;
  const std::int64_t length = extents.length;
  const std::int64_t heads = extents.query_heads;
  const std::int64_t head_dim = extents.head_dim;
  check.shape("out", args.out, DType::f32, {sequences, length, heads, head_dim});
  check.shape("lse", args.lse, DType::f32, {sequences, heads, length});
  std::int64_t watched = 0;
  if (args.sink) {
    check.rank("sink", args.sink, DType::f32, 3);
    watched = args.sink.extent(2);
    check.shape("sink", args.sink, DType::f32, {sequences, heads, watched});
    check.that(watched <= length, "sink",
               "is " + describe(args.sink) + ", expected at most T = " + std::to_string(length) + " keys");
  }
  check.optional_shape("sink_logits", args.sink_logits, DType::f32, {heads});
  if (sequences == 0 || length == 0) return;

  const HeadExtents head(extents);
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  const float* qkv = args.qkv.as<float>();
  float* outs = args.out.as<float>();
  float* lses = args.lse.as<float>();
  float* sinks = watched > 0 ? args.sink.as<float>() : nullptr;
  const float* sink_logits = args.sink_logits ? args.sink_logits.as<float>() : nullptr;
  const std::int64_t scratch_size = round_to_line(Scratch::size(head, watched)) + 2 * round_to_line(watched);
  auto* scratch_memory = workspace_.take<float>(threads_ * scratch_size);

  parallel_tasks(threads_, sequences * heads, [&](int thread, std::int64_t task) {
    const std::int64_t b = task / heads;
    const std::int64_t h = task % heads;
    const std::int64_t g = h / extents.group();
    float* memory = scratch_memory + thread * scratch_size;
    auto* masses = reinterpret_cast<double*>(memory);  // of the watched keys
    const Scratch scratch(head, memory + 2 * round_to_line(watched));
    gather_head(head, qkv + extents.offset(b, 0, h), extents.row_stride(), scale, scratch.query);
    gather_head(head, qkv + extents.offset(b, 0, heads + g), extents.row_stride(), 1.0F, scratch.key);
    transpose_head(head, scratch.key, scratch.key_transposed);
    gather_head(head, qkv + extents.offset(b, 0, heads + extents.kv_heads + g), extents.row_stride(), 1.0F,
                scratch.value);
    std::fill_n(masses, watched, 0.0);

    for (std::int64_t q0 = 0; q0 < length; q0 += kQueryTile) {
      const std::int64_t queries = tile_queries(head, q0);
      Softmax softmax;
      // A sink logit is a score that is there before any key and has no value.
      std::fill_n(softmax.highest, kQueryTile,
                  sink_logits == nullptr ? -std::numeric_limits<float>::infinity() : sink_logits[h]);
      std::fill_n(softmax.sum, kQueryTile, sink_logits == nullptr ? 0.0F : 1.0F);
      std::fill_n(scratch.out, queries * head.width, 0.0F);
      for (std::int64_t k0 = 0; k0 < q0 + queries; k0 += kKeyTile) {
        for (std::int64_t strip = 0; strip < queries; strip += kStripRows) {
          if (k0 > q0 + strip) continue;
          const std::int64_t keys = strip_keys(q0 + strip, k0);
          const std::int64_t padded = round_up(keys, kLanes);
          strip_products(head, scratch.query, scratch.key_transposed, q0 + strip, k0, scratch.scores);
          for (std::int64_t r = 0; r < kStripRows; ++r) {
            const std::int64_t row = strip + r;
            const std::int64_t valid = std::min(keys, q0 + row - k0 + 1);
            float* scores = scratch.scores + r * kKeyTile;
            for (std::int64_t k = k0; k < std::min(watched, k0 + valid); ++k)
              scratch.watched[row * watched + k] = scores[k - k0];
            softmax_row(scores, valid, padded, softmax.highest[row], softmax.sum[row], scratch.out + row * head.width,
                        head.width);
          }
          strip_gemm<StripOf::rows>(scratch.scores, kKeyTile, scratch.value + k0 * head.width, head.width,
                                    scratch.out + strip * head.width, head.width, head.width, keys, true);
        }
      }
      const std::int64_t last = std::min(queries, length - q0);
      for (std::int64_t row = 0; row < last; ++row) {
        const std::int64_t t = q0 + row;
        const float lse = softmax.highest[row] + std::log(softmax.sum[row]);
        lses[(b * heads + h) * length + t] = lse;
        const float inverse = 1.0F / softmax.sum[row];
        const float* source = scratch.out + row * head.width;
        float* target = outs + ((b * length + t) * heads + h) * head_dim;
#pragma omp simd
        for (std::int64_t d = 0; d < head_dim; ++d) target[d] = inverse * source[d];
        const std::int64_t seen = std::min(watched, t + 1);
        for (std::int64_t k = 0; k < seen; ++k)
          masses[k] += static_cast<double>(vector_exp(scratch.watched[row * watched + k] - lse));
      }
    }
    for (std::int64_t k = 0; k < watched; ++k)
      sinks[(b * heads + h) * watched + k] = static_cast<float>(masses[k] / static_cast<double>(length - k));
  });
}

}  // namespace sinkscope
