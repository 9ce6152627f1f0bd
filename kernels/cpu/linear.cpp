#include <cblas.h>
#include <omp.h>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/fp8.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/workspace.h"

namespace sinkscope {
namespace {

/// An OpenBLAS built on OpenMP takes its thread count from the calling thread's OpenMP setting, any
/// other build from its own, which another backend of this process may have changed.
void set_gemm_threads(int threads) {
  if (omp_get_max_threads() != threads) omp_set_num_threads(threads);
  if (openblas_get_num_threads() != threads) openblas_set_num_threads(threads);
}

}  // namespace

void CpuOps::linear_forward(const LinearForward& args) {
  const Check check("linear_forward");
  check.rank("x", args.x, DType::f32, 2);
  check.rank("weight", args.weight, DType::f32, 2);
  const std::int64_t rows = args.x.extent(0);
  const std::int64_t inputs = args.x.extent(1);
  const std::int64_t outputs = args.weight.extent(0);
  check.shape("weight", args.weight, DType::f32, {outputs, inputs});
  check.shape("out", args.out, DType::f32, {rows, outputs});
  check.optional_shape("bias", args.bias, DType::f32, {outputs});
  check_activated(check, args, rows, outputs, DType::f32);
  check.that(inputs > 0, "x", "is " + describe(args.x) + ", expected at least one input");
  check_fp8(check, args.fp8, inputs, outputs);
  if (rows == 0 || outputs == 0) return;
  const int m = check.blas_int("x", rows);
  const int n = check.blas_int("weight", outputs);
  const int k = check.blas_int("x", inputs);

  const float *x = args.x.as<float>(), *weight = args.weight.as<float>();
  if (args.fp8) {
    raise_amax(threads_, args.fp8.x, x, args.x.size());
    raise_amax(threads_, args.fp8.weight, weight, args.weight.size());
    if (!args.fp8.measure) {
      float* rounded_x = workspace_.take<float>(args.x.size() + args.weight.size());
      float* rounded_weight = rounded_x + args.x.size();
      round_to_fp8(threads_, Fp8Format::e4m3, args.fp8.x, x, args.x.size(), rounded_x);
      round_to_fp8(threads_, Fp8Format::e4m3, args.fp8.weight, weight, args.weight.size(), rounded_weight);
      x = rounded_x;
      weight = rounded_weight;
    }
  }
  float* out = args.out.as<float>();
  set_gemm_threads(threads_);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0F, x, k, weight, k, 0.0F, out, n);
  if (args.bias) {
    const float* bias = args.bias.as<float>();
    parallel_range(threads_, rows, outputs, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        float* row = out + r * outputs;
#pragma omp simd
        for (std::int64_t o = 0; o < outputs; ++o) row[o] += bias[o];
      }
    });
  }
  if (args.gelu) gelu_forward({.kind = args.gelu_kind, .x = args.out, .out = args.gelu});
  if (args.swiglu) swiglu_forward({.gate_up = args.out, .out = args.swiglu});
}

void CpuOps::linear_backward(const LinearBackward& args) {
  const Check check("linear_backward");
  check.rank("dout", args.dout, DType::f32, 2);
  const std::int64_t rows = args.dout.extent(0);
  const std::int64_t outputs = args.dout.extent(1);
  const int m = check.blas_int("dout", rows);
  const int n = check.blas_int("dout", outputs);
  if (args.dx) {
    check.rank("dx", args.dx, DType::f32, 2);
    const std::int64_t inputs = args.dx.extent(1);
    check.shape("dx", args.dx, DType::f32, {rows, inputs});
    check.shape("weight", args.weight, DType::f32, {outputs, inputs});
  }
  if (args.dweight) {
    check.rank("dweight", args.dweight, DType::f32, 2);
    const std::int64_t inputs = args.dweight.extent(1);
    check.shape("dweight", args.dweight, DType::f32, {outputs, inputs});
    check.shape("x", args.x, DType::f32, {rows, inputs});
  }
  check.optional_shape("dbias", args.dbias, DType::f32, {outputs});
  check_activation_input(check, args, DType::f32);
  check.that(outputs > 0, "dout", "is " + describe(args.dout) + ", expected at least one output");
  check_fp8(check, args);

  const float* dout = args.dout.as<float>();
  const float* weight = args.dx ? args.weight.as<float>() : nullptr;
  const float* x = args.dweight ? args.x.as<float>() : nullptr;
  if (args.fp8) {
    raise_amax(threads_, args.fp8.dout, dout, args.dout.size());
    if (!args.fp8.measure) {
      const std::int64_t weights = args.dx ? args.weight.size() : 0, inputs = args.dweight ? args.x.size() : 0;
      float* place = workspace_.take<float>(args.dout.size() + weights + inputs);
      const auto rounded = [&](Fp8Format format, const Fp8Scaling& scaling, const float* from, std::int64_t count) {
        round_to_fp8(threads_, format, scaling, from, count, place);
        place += count;
        return place - count;
      };
      dout = rounded(Fp8Format::e5m2, args.fp8.dout, dout, args.dout.size());
      if (args.dx) weight = rounded(Fp8Format::e4m3, args.fp8.weight, weight, weights);
      if (args.dweight) x = rounded(Fp8Format::e4m3, args.fp8.x, x, inputs);
    }
  }
  set_gemm_threads(threads_);
  if (args.dx && args.dx.size() > 0) {
    const int k = check.blas_int("dx", args.dx.extent(1));
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, k, n, 1.0F, dout, n, weight, k,
                args.accumulate ? 1.0F : 0.0F, args.dx.as<float>(), k);
  }
  if (args.dweight && args.replace && rows == 0) zero(args.dweight);
  if (args.dweight && args.dweight.size() > 0 && rows > 0) {
    const int k = check.blas_int("dweight", args.dweight.extent(1));
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, k, m, 1.0F, dout, n, x, k, args.replace ? 0.0F : 1.0F,
                args.dweight.as<float>(), k);
  }
  // These take memory of their own, in which operands may have been.
  if (args.gelu_input && args.dx.size() > 0)
    gelu_backward(
        {.kind = args.gelu_kind, .x = args.gelu_input, .dout = args.dx, .dx = args.dx, .dx_sums = args.dx_sums});
  if (args.swiglu_input)
    swiglu_backward({.gate_up = args.swiglu_input, .dout = args.dx, .dgate_up = args.dswiglu_input});
  if (args.dbias) add_column_sums(args.dbias, args.dout);
}

void CpuOps::add_column_sums(const Tensor& sums, const Tensor& x) {
  const std::int64_t rows = x.extent(0), columns = x.extent(1);
  const float* values = x.as<float>();
  const int parts = part_count(threads_, rows, columns);
  const std::int64_t stride = round_to_line(columns);
  float* partials = workspace_.take<float>(parts * stride);
  parallel_parts(parts, rows, [&](int part, std::int64_t begin, std::int64_t end) {
    float* part_sums = partials + part * stride;
    std::fill_n(part_sums, columns, 0.0F);
    for (std::int64_t r = begin; r < end; ++r) {
      const float* row = values + r * columns;
#pragma omp simd
      for (std::int64_t c = 0; c < columns; ++c) part_sums[c] += row[c];
    }
  });
  add_partials(threads_, parts, partials, stride, columns, sums.as<float>());
}

}  // namespace sinkscope
