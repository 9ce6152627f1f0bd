#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/workspace.h"

namespace sinkscope {
namespace {

struct Extents {
  std::int64_t rows = 0;      // N
  std::int64_t length = 0;    // T
  std::int64_t channels = 0;  // C
};

Extents check_embedding(const Check& check, const Tensor& tokens, const char* table_name, const Tensor& table,
                        const char* positions_name, const Tensor& positions, const char* rows_name,
                        const Tensor& rows) {
  check.rank("tokens", tokens, DType::i32, 2);
  check.rank(table_name, table, DType::f32, 2);
  Extents extents;
  extents.rows = tokens.size();
  extents.length = tokens.extent(1);
  extents.channels = table.extent(1);
  check.shape(rows_name, rows, DType::f32, {extents.rows, extents.channels});
  if (positions) {
    check.rank(positions_name, positions, DType::f32, 2);
    check.that(positions.extent(0) >= extents.length && positions.extent(1) == extents.channels, positions_name,
               "is " + describe(positions) + ", expected at least " + std::to_string(extents.length) +
                   " positions of " + std::to_string(extents.channels) + " channels");
  }
  check.indices("tokens", tokens, table.extent(0), "V", false);
  return extents;
}

}  // namespace

void CpuOps::embedding_forward(const EmbeddingForward& args) {
  const Check check("embedding_forward");
  const auto [rows, length, channels] =
      check_embedding(check, args.tokens, "wte", args.wte, "wpe", args.wpe, "out", args.out);
  const std::int64_t positions = length;
  const std::int64_t width = channels;
  const auto* tokens = args.tokens.as<std::int32_t>();
  const float* wte = args.wte.as<float>();
  const float* wpe = args.wpe ? args.wpe.as<float>() : nullptr;
  float* out = args.out.as<float>();
  parallel_range(threads_, rows, width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const float* token = wte + tokens[n] * width;
      float* row = out + n * width;
      if (wpe == nullptr) {
        std::memcpy(row, token, static_cast<std::size_t>(width) * sizeof(float));
        continue;
      }
      const float* position = wpe + n % positions * width;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) row[c] = token[c] + position[c];
    }
  });
  if (args.norm.out) norm_forward(looked_up_norm(check, args));
}

void CpuOps::embedding_backward(const EmbeddingBackward& args) {
  const Check check("embedding_backward");
  const auto [rows, length, channels] =
      check_embedding(check, args.tokens, "dwte", args.dwte, "dwpe", args.dwpe, "dout", args.dout);
  const std::int64_t count = rows;
  const std::int64_t positions = length;
  const std::int64_t width = channels;
  const auto* tokens = args.tokens.as<std::int32_t>();
  const float* dout = args.dout.as<float>();
  float* dwte = args.dwte.as<float>();
  // Rows of one token meet in one row of dwte: threads share the channels, in whole cache lines, not
  // the rows, and every element is summed in the order of n.
  const std::int64_t lines = (width + 15) / 16;
  parallel_range(threads_, lines, 16 * count, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * 16;
    const std::int64_t last = std::min(end * 16, width);
    for (std::int64_t n = 0; n < count; ++n) {
      const float* source = dout + n * width;
      float* target = dwte + tokens[n] * width;
#pragma omp simd
      for (std::int64_t c = first; c < last; ++c) target[c] += source[c];
    }
  });
  if (!args.dwpe || count == 0) return;
  float* dwpe = args.dwpe.as<float>();
  const std::int64_t sequences = count / positions;
  parallel_range(threads_, positions, sequences * width, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      float* target = dwpe + t * width;
      for (std::int64_t b = 0; b < sequences; ++b) {
        const float* source = dout + (b * positions + t) * width;
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) target[c] += source[c];
      }
    }
  });
}

}  // namespace sinkscope
