// The second pass over the attention scores, for probes. One task is one query head of one sequence.
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
  double* key_mass = nullptr;       // (rows)
  float* query = nullptr;           // (rows, width), scaled
  float* key = nullptr;             // (rows, width)
  float* key_transposed = nullptr;  // (D, rows)
  float* scores = nullptr;          // (kStripRows, kKeyTile)
  float* query_inverse = nullptr;   // (rows): 1 / Euclidean norm of the scaled query, 0 for a zero vector
  float* key_inverse = nullptr;     // (rows)

  static std::int64_t size(const HeadExtents& head) {
    return 3 * head.size() + kStripRows * kKeyTile + 4 * round_to_line(head.rows);
  }
  Scratch(const HeadExtents& head, float* at)
      : key_mass(reinterpret_cast<double*>(at)),
        query(at + 2 * round_to_line(head.rows)),
        key(query + head.size()),
        key_transposed(key + head.size()),
        scores(key_transposed + head.size()),
        query_inverse(scores + kStripRows * kKeyTile),
        key_inverse(query_inverse + round_to_line(head.rows)) {}
};

void inverse_norms(const HeadExtents& head, const float* rows, float* inverse) {
  for (std::int64_t t = 0; t < head.rows; ++t) {
    const float* row = rows + t * head.width;
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t d = 0; d < head.width; ++d) squares += row[d] * row[d];
    inverse[t] = squares > 0 ? 1.0F / std::sqrt(squares) : 0.0F;
  }
}

/// Sums over the queries of one head.
struct Sums {
  double first_mass = 0;
  double first_argmax = 0;
  double entropy = 0;
  double cos_first = 0;
  double cos_rest = 0;
};

/// Adds query t against the keys [k0, k0 + valid); `highest` lives over the tiles. Scores are there up to a whole
/// number of vectors: those from `valid` on become -infinity, so that no loop has a remainder. The exponentials
/// have a loop of their own: what would follow is compiled into their branches, which are then not vectorised.
void add_row(const Scratch& scratch, float* scores, std::int64_t t, std::int64_t k0, std::int64_t valid, float lse,
             float& highest, Sums& sums) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float* key_inverse = scratch.key_inverse + k0;
  float cosine = 0;  // times the norm of the query
#pragma omp simd reduction(+ : cosine)
  for (std::int64_t k = 0; k < valid; ++k) cosine += scores[k] * key_inverse[k];
  const std::int64_t padded = round_up(valid, kLanes);
  std::fill(scores + valid, scores + padded, -kInfinity);
  float weights[kKeyTile];
  float top = highest;
#pragma omp simd reduction(max : top)
  for (std::int64_t k = 0; k < padded; ++k) {
    weights[k] = vector_exp(scores[k] - lse);
    top = scores[k] > top ? scores[k] : top;
  }
  float entropy = 0;
  double* key_mass = scratch.key_mass + k0;
#pragma omp simd reduction(+ : entropy)
  for (std::int64_t k = 0; k < padded; ++k) {
    const float logarithm = scores[k] - lse;
    entropy -= weights[k] * (logarithm > -kInfinity ? logarithm : 0.0F);  // 0 ln 0 = 0
    key_mass[k] += static_cast<double>(weights[k]);
  }
  highest = top;
  sums.entropy += static_cast<double>(entropy);
  if (t == 0) return;
  const double inverse = static_cast<double>(scratch.query_inverse[t]);
  sums.cos_rest += static_cast<double>(cosine) * inverse;
  if (k0 > 0) return;
  const double first = static_cast<double>(scores[0] * key_inverse[0]) * inverse;
  sums.cos_first += first;
  sums.cos_rest -= first;
  sums.first_mass += static_cast<double>(weights[0]);
}

}  // namespace

void CpuOps::attention_statistics(const AttentionStatistics& args) {
  const Check check("attention_statistics");
  const AttentionExtents extents = check_attention(check, "qkv", args.qkv, args.query_heads, args.kv_heads);
  const std::int64_t sequences = extents.sequences;
  const std::int64_t length = extents.length;
  const std::int64_t heads = extents.query_heads;
  check.that(length >= 2, "qkv", "is " + describe(args.qkv) + ", expected T >= 2");
  check.shape("lse", args.lse, DType::f32, {sequences, heads, length});
  check.rank("sink", args.sink, DType::f32, 3);
  const std::int64_t watched = args.sink.extent(2);
  check.shape("sink", args.sink, DType::f32, {sequences, heads, watched});
  check.that(watched <= length, "sink",
             "is " + describe(args.sink) + ", expected at most T = " + std::to_string(length) + " keys");
  check.shape("first_mass", args.first_mass, DType::f32, {sequences, heads});
  check.shape("first_argmax", args.first_argmax, DType::f32, {sequences, heads});
  check.shape("entropy", args.entropy, DType::f32, {sequences, heads});
  check.shape("key_mass", args.key_mass, DType::f32, {sequences, heads, length});
  check.shape("cos_first", args.cos_first, DType::f32, {sequences, heads});
  check.shape("cos_rest", args.cos_rest, DType::f32, {sequences, heads});
  check_sink_logits(check, args.sink_logits, DType::f32, heads, "sink_logit_mass", args.sink_logit_mass,
                    {sequences, heads});

  const HeadExtents head(extents);
  const float scale = 1.0F / std::sqrt(static_cast<float>(extents.head_dim));
  const float* qkv = args.qkv.as<float>();
  const float* lses = args.lse.as<float>();
  float* sinks = args.sink.as<float>();
  float* first_masses = args.first_mass.as<float>();
  float* first_argmaxes = args.first_argmax.as<float>();
  float* entropies = args.entropy.as<float>();
  float* key_masses = args.key_mass.as<float>();
  float* cos_firsts = args.cos_first.as<float>();
  float* cos_rests = args.cos_rest.as<float>();
  const float* sink_logits = args.sink_logit_mass ? args.sink_logits.as<float>() : nullptr;
  float* sink_logit_masses = args.sink_logit_mass ? args.sink_logit_mass.as<float>() : nullptr;
  const auto later_queries = static_cast<double>(length - 1);
  const double later_pairs = 0.5 * static_cast<double>(length) * later_queries;  // 1 <= j <= t
  const std::int64_t scratch_size = round_to_line(Scratch::size(head));
  auto* scratch_memory = workspace_.take<float>(threads_ * scratch_size);

  parallel_tasks(threads_, sequences * heads, [&](int thread, std::int64_t task) {
    const std::int64_t b = task / heads;
    const std::int64_t h = task % heads;
    const Scratch scratch(head, scratch_memory + thread * scratch_size);
    gather_head(head, qkv + extents.offset(b, 0, h), extents.row_stride(), scale, scratch.query);
    gather_head(head, qkv + extents.offset(b, 0, heads + h / extents.group()), extents.row_stride(), 1.0F, scratch.key);
    transpose_head(head, scratch.key, scratch.key_transposed);
    inverse_norms(head, scratch.query, scratch.query_inverse);
    inverse_norms(head, scratch.key, scratch.key_inverse);
    std::fill_n(scratch.key_mass, head.rows, 0.0);

    const float* lse = lses + task * length;
    if (sink_logits != nullptr) {
      double mass = 0;
#pragma omp simd reduction(+ : mass)
      for (std::int64_t t = 0; t < length; ++t) mass += static_cast<double>(vector_exp(sink_logits[h] - lse[t]));
      sink_logit_masses[task] = static_cast<float>(mass / static_cast<double>(length));
    }
    Sums sums;
    for (std::int64_t q0 = 0; q0 < length; q0 += kStripRows) {
      float highest[kStripRows];
      float first[kStripRows];
      std::fill_n(highest, kStripRows, -std::numeric_limits<float>::infinity());
      const std::int64_t rows = std::min(kStripRows, length - q0);
      for (std::int64_t k0 = 0; k0 <= q0; k0 += kKeyTile) {
        strip_products(head, scratch.query, scratch.key_transposed, q0, k0, scratch.scores);
        for (std::int64_t r = 0; r < rows; ++r) {
          float* scores = scratch.scores + r * kKeyTile;
          if (k0 == 0) first[r] = scores[0];
          add_row(scratch, scores, q0 + r, k0, std::min(strip_keys(q0, k0), q0 + r - k0 + 1), lse[q0 + r], highest[r],
                  sums);
        }
      }
      for (std::int64_t r = 0; r < rows; ++r)
        if (q0 + r > 0 && first[r] >= highest[r]) sums.first_argmax += 1.0;
    }
    for (std::int64_t k = 0; k < watched; ++k)
      sinks[task * watched + k] = static_cast<float>(scratch.key_mass[k] / static_cast<double>(length - k));
    for (std::int64_t k = 0; k < length; ++k) key_masses[task * length + k] = static_cast<float>(scratch.key_mass[k]);
    first_masses[task] = static_cast<float>(sums.first_mass / later_queries);
    first_argmaxes[task] = static_cast<float>(sums.first_argmax / later_queries);
    entropies[task] = static_cast<float>(sums.entropy / static_cast<double>(length));
    cos_firsts[task] = static_cast<float>(sums.cos_first / later_queries);
    cos_rests[task] = static_cast<float>(sums.cos_rest / later_pairs);
  });
}

}  // namespace sinkscope
