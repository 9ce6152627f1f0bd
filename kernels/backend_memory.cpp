#include "kernels/backend_memory.h"

#include <algorithm>

namespace sinkscope {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

constexpr std::int64_t kMaxBlocks = 4 * 256;  // of reductions with as many blocks as processors, a few each

/// Temporary memory of a radix sort of N pairs of 32 bits each: a copy of both arrays, a histogram of 256 bins for
/// every tile, which holds 1024 elements or more, and totals.
std::int64_t sort_bytes(std::int64_t N) { return (4 * 2 + 1) * N + (std::int64_t{1} << 20); }

/// Sink scores of the query tiles, of 64 rows or more, that see the watched keys: (B, H, tiles, K) f32.
std::int64_t sink_bytes(const BackendExtents& e, const BatchExtents& batch) {
  return batch.sequences * e.query_heads * ceil_div(batch.length, 64) * e.positions * 4;
}

/// attention_backward: lse and sum_d out dout, (B, H, T, 2) f32 of blocks of 64 queries; where Hopper's kernels take
/// the head dim also sums of dQ, (B, H, T, D) f32, and a turn of every block; then the sums of dsink_logits, (B, H)
/// f64; on Hopper column sums of dqkv, (B, T / 16, (H + 2 G) D) f32.
std::int64_t backward_bytes(const BackendExtents& e) {
  const bool hopper = e.compute == DType::bf16 && (e.head_dim == 64 || e.head_dim == 128);
  const std::int64_t rows = ceil_div(e.training.length, 64) * (64 * (2 + (hopper ? e.head_dim : 0)) + 1) * 4;
  const std::int64_t columns =
      hopper && e.qkv_sums ? ceil_div(e.training.length, 64) * 4 * (e.query_heads + 2 * e.kv_heads) * e.head_dim * 4
                           : 0;
  return e.training.sequences * (e.query_heads * (rows + 8) + columns);
}

/// attention_statistics: sums in f64 and the mass of every key, (B, H, tiles, 5) and (B, H, tiles, T) f32, of tiles
/// of 32 queries or more.
std::int64_t statistics_bytes(const BackendExtents& e, const BatchExtents& batch) {
  return batch.sequences * e.query_heads * ceil_div(batch.length, 32) * (5 * 8 + batch.length * 4);
}

/// norm_sums of a probe pass: means of every sequence at 3 L + 1 places of rows, or at 2 G L of keys and values.
std::int64_t probed_norms_bytes(const BackendExtents& e, const BatchExtents& batch) {
  return std::max(3 * e.layers + 1, 2 * e.kv_heads * e.layers) * batch.sequences * 16;
}

std::int64_t optimizer_chunks(const BackendExtents& e) {
  std::int64_t chunks = 0;
  for (const Segment& segment : e.segments) chunks += ceil_div(segment.size, kOptimizerChunk);
  return chunks;
}

/// The largest request of any operation.
std::int64_t scratch_bytes(const BackendExtents& e) {
  const std::int64_t B = e.training.sequences, T = e.training.length, N = B * T;
  std::int64_t most = std::max({
      sink_bytes(e, e.training),
      backward_bytes(e),
      ceil_div(N, kOwnSumRows) * e.bias_outputs * 4,   // linear_backward: partial column sums
      kMaxBlocks * 3 * e.channels * 4,                 // norm_backward: partial dweight, dbias, sums of dx
      kMaxBlocks * 2 * e.head_dim * 4,                 // qk_norm_backward: of both weights
      // embedding_backward: rows sorted by token, then sums of pieces of long runs
      3 * round_up(N, 64) * 4 + std::max(sort_bytes(N), 2 * ceil_div(N, kEmbeddingPiece) * e.channels * 4),
      (e.layers + 1) * B * 16,                         // norm_sums of a step: means of every sequence of a place
      optimizer_chunks(e) * 8,                         // sum_of_squares
  });
  for (const LinearShape& of : e.fp8) most = std::max(most, fp8_backward_bytes(N, of.inputs, of.outputs));
  if (e.training_statistics) most = std::max(most, statistics_bytes(e, e.training));
  for (const BatchExtents& batch : e.probed)
    for (const LinearShape& of : e.fp8)
      most = std::max(most, fp8_forward_bytes(batch.sequences * batch.length, of.inputs, of.outputs));
  for (const BatchExtents& batch : e.probed)
    most = std::max(
        {most, sink_bytes(e, batch), statistics_bytes(e, batch), probed_norms_bytes(e, batch), kAbsStatisticsScratch});
  return round_up(most + 4096, 4096);  // parts begin at multiples of 256 bytes
}

}  // namespace

std::int64_t fp8_forward_bytes(std::int64_t rows, std::int64_t inputs, std::int64_t outputs) {
  return (rows + outputs) * inputs;
}

std::int64_t fp8_backward_bytes(std::int64_t rows, std::int64_t inputs, std::int64_t outputs) {
  const std::int64_t padded = round_up(rows, kFp8Multiple);
  return (rows + padded + inputs) * outputs + padded * inputs;
}

std::int64_t BackendExtents::longest() const {
  std::int64_t length = training.length;
  for (const BatchExtents& batch : probed) length = std::max(length, batch.length);
  return length;
}

BackendMemory cuda_memory(const BackendExtents& e) {
  const auto bytes = [](std::int64_t count) { return static_cast<std::size_t>(round_up(count, 256)); };
  return {.workspace = kCudaWorkspace,
          .scratch = bytes(scratch_bytes(e)),
          .rotary = e.rope_theta > 0 ? bytes(e.longest() * e.rotary_pairs() * 8) : 0,
          .chunks = bytes(optimizer_chunks(e) * 16) + bytes((static_cast<std::int64_t>(e.segments.size()) + 1) * 8),
          .code = std::size_t{256} << 20};
}

}  // namespace sinkscope
