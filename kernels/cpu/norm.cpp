#include <cmath>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/workspace.h"

namespace sinkscope {
namespace {

float sum_of_row(const float* x, std::int64_t size) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < size; ++c) sum += x[c];
  return sum;
}

/// Sum of (x - shift)^2.
float squares_of_row(const float* x, float shift, std::int64_t size) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < size; ++c) sum += (x[c] - shift) * (x[c] - shift);
  return sum;
}

}  // namespace

void CpuOps::norm_forward(const NormForward& args) {
  const Check check("norm_forward");
  const bool layernorm = args.kind == NormKind::layernorm;
  check.rank("x", args.x, DType::f32, 2);
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t channels = args.x.extent(1);
  check.that(channels > 0, "x", "is " + describe(args.x) + ", expected at least one channel");
  check.optional_shape("delta", args.delta, DType::f32, {rows, channels});
  check.optional_shape("sum", args.sum, DType::f32, {rows, channels});
  check.that(static_cast<bool>(args.sum) == static_cast<bool>(args.delta), "sum",
             args.sum ? "is given without delta" : "is not given, but delta is");
  check.shape("weight", args.weight, DType::f32, {channels});
  check.optional_shape("bias", args.bias, DType::f32, {channels});
  check.that(layernorm || !args.bias, "bias", "is given, but rmsnorm has none");
  check.shape("out", args.out, DType::f32, {rows, channels});
  if (layernorm) check.shape("mean", args.mean, DType::f32, {rows});
  check.shape("rstd", args.rstd, DType::f32, {rows});
  check.optional_shape("l2", args.l2, DType::f32, {rows});

  const float* x = args.x.as<float>();
  const float* delta = args.delta ? args.delta.as<float>() : nullptr;
  float* sum = args.sum ? args.sum.as<float>() : nullptr;
  const float* weight = args.weight.as<float>();
  const float* bias = args.bias ? args.bias.as<float>() : nullptr;
  float* out = args.out.as<float>();
  float* means = layernorm ? args.mean.as<float>() : nullptr;
  float* rstds = args.rstd.as<float>();
  float* l2 = args.l2 ? args.l2.as<float>() : nullptr;
  const float inverse_channels = 1.0F / static_cast<float>(channels);

  parallel_range(threads_, rows, channels, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const float* row = x + n * channels;
      if (delta != nullptr) {
        const float* added = delta + n * channels;
        float* stored = sum + n * channels;
#pragma omp simd
        for (std::int64_t c = 0; c < channels; ++c) stored[c] = row[c] + added[c];
        row = stored;
      }
      const float mean = layernorm ? sum_of_row(row, channels) * inverse_channels : 0.0F;
      const float squares = squares_of_row(row, mean, channels);
      const float rstd = 1.0F / std::sqrt(squares * inverse_channels + args.eps);
      rstds[n] = rstd;
      if (layernorm) means[n] = mean;
      if (l2 != nullptr) l2[n] = std::sqrt(layernorm ? squares_of_row(row, 0.0F, channels) : squares);
      float* normed = out + n * channels;
      if (bias != nullptr) {
#pragma omp simd
        for (std::int64_t c = 0; c < channels; ++c) normed[c] = (row[c] - mean) * rstd * weight[c] + bias[c];
      } else {
#pragma omp simd
        for (std::int64_t c = 0; c < channels; ++c) normed[c] = (row[c] - mean) * rstd * weight[c];
      }
    }
  });
}

void CpuOps::norm_backward(const NormBackward& args) {
  const Check check("norm_backward");
  const bool layernorm = args.kind == NormKind::layernorm;
  check.rank("x", args.x, DType::f32, 2);
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t channels = args.x.extent(1);
  check.that(channels > 0, "x", "is " + describe(args.x) + ", expected at least one channel");
  check.shape("dout", args.dout, DType::f32, {rows, channels});
  check.shape("weight", args.weight, DType::f32, {channels});
  if (layernorm) check.shape("mean", args.mean, DType::f32, {rows});
  check.shape("rstd", args.rstd, DType::f32, {rows});
  check.shape("dx", args.dx, DType::f32, {rows, channels});
  check.shape("dweight", args.dweight, DType::f32, {channels});
  check.optional_shape("dbias", args.dbias, DType::f32, {channels});
  check.that(layernorm || !args.dbias, "dbias", "is given, but rmsnorm has none");
  check.optional_shape("dx_sums", args.dx_sums, DType::f32, {channels});

  const float* x = args.x.as<float>();
  const float* dout = args.dout.as<float>();
  const float* weight = args.weight.as<float>();
  const float* means = layernorm ? args.mean.as<float>() : nullptr;
  const float* rstds = args.rstd.as<float>();
  float* dx = args.dx.as<float>();
  const float inverse_channels = 1.0F / static_cast<float>(channels);

  // Every part sums its own dweight, dbias and dx; the parts are added in order.
  const int parts = part_count(threads_, rows, channels);
  const std::int64_t stride = round_to_line(channels);
  float* partials = workspace_.take<float>(3 * parts * stride);
  float *bias_partials = partials + parts * stride, *sum_partials = bias_partials + parts * stride;
  const bool with_bias = static_cast<bool>(args.dbias), with_sums = static_cast<bool>(args.dx_sums);

  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    float* dweight = partials + part * stride;
    float* dbias = bias_partials + part * stride;
    std::fill_n(dweight, channels, 0.0F);
    std::fill_n(dbias, channels, 0.0F);
    float* sums = sum_partials + part * stride;
    std::fill_n(sums, channels, 0.0F);
    for (std::int64_t n = begin; n < end; ++n) {
      const float* row = x + n * channels;
      const float* gradient = dout + n * channels;
      float* target = dx + n * channels;
      const float mean = layernorm ? means[n] : 0.0F;
      const float rstd = rstds[n];
      float sum = 0;          // of g = dout * weight
      float projection = 0;   // of g * xhat
#pragma omp simd reduction(+ : sum, projection)
      for (std::int64_t c = 0; c < channels; ++c) {
        const float xhat = (row[c] - mean) * rstd;
        const float g = gradient[c] * weight[c];
        sum += g;
        projection += g * xhat;
        dweight[c] += gradient[c] * xhat;
      }
      if (with_bias) {
#pragma omp simd
        for (std::int64_t c = 0; c < channels; ++c) dbias[c] += gradient[c];
      }
      const float g_mean = layernorm ? sum * inverse_channels : 0.0F;
      const float projection_mean = projection * inverse_channels;
#pragma omp simd
      for (std::int64_t c = 0; c < channels; ++c) {
        const float xhat = (row[c] - mean) * rstd;
        target[c] += rstd * (gradient[c] * weight[c] - g_mean - xhat * projection_mean);
      }
      if (with_sums) {
#pragma omp simd
        for (std::int64_t c = 0; c < channels; ++c) sums[c] += target[c];
      }
    }
  });
  add_partials(threads_, parts, partials, stride, channels, args.dweight.as<float>());
  if (with_bias) add_partials(threads_, parts, bias_partials, stride, channels, args.dbias.as<float>());
  if (with_sums) add_partials(threads_, parts, sum_partials, stride, channels, args.dx_sums.as<float>());
}

}  // namespace sinkscope
