#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace sinkscope {
namespace {

// x/2 (1 + tanh(u)) = x sigmoid(2u), which has no cancellation; 2u = kLinear x (1 + kCubic x^2).
constexpr float kLinear = 1.59576912160573071F;  // 2 sqrt(2/pi)
constexpr float kCubic = 0.044715F;

// Elements whose exponential costs about as much as this many memory-bound ones.
constexpr std::int64_t kActivationCost = 2;

}  // namespace

void CpuOps::gelu_forward(const GeluForward& args) {
  const Check check("gelu_forward");
  check.rank("x", args.x, DType::f32, 2);
  check.shape("out", args.out, DType::f32, {args.x.extent(0), args.x.extent(1)});
  const float* x = args.x.as<float>();
  float* out = args.out.as<float>();
  parallel_range(threads_, args.x.size(), kActivationCost, [&](std::int64_t begin, std::int64_t end) {
    if (args.kind == GeluKind::erf) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) out[i] = x[i] * vector_normal(x[i]).below;
      return;
    }
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const float v = x[i];
      out[i] = v * vector_sigmoid(kLinear * v * (1.0F + kCubic * v * v));
    }
  });
}

void CpuOps::gelu_backward(const GeluBackward& args) {
  const Check check("gelu_backward");
  check.rank("x", args.x, DType::f32, 2);
  check.shape("dout", args.dout, DType::f32, {args.x.extent(0), args.x.extent(1)});
  check.shape("dx", args.dx, DType::f32, {args.x.extent(0), args.x.extent(1)});
  check.optional_shape("dx_sums", args.dx_sums, DType::f32, {args.x.extent(1)});
  const float* x = args.x.as<float>();
  const float* dout = args.dout.as<float>();
  float* dx = args.dx.as<float>();
  parallel_range(threads_, args.x.size(), kActivationCost, [&](std::int64_t begin, std::int64_t end) {
    if (args.kind == GeluKind::erf) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const NormalDistribution normal = vector_normal(x[i]);
        dx[i] = dout[i] * (normal.below + x[i] * normal.density);
      }
      return;
    }
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const float v = x[i];
      const float s = vector_sigmoid(kLinear * v * (1.0F + kCubic * v * v));
      const float slope = kLinear * (1.0F + 3.0F * kCubic * v * v);
      dx[i] = dout[i] * (s + v * s * (1.0F - s) * slope);
    }
  });
  if (args.dx_sums) add_column_sums(args.dx_sums, args.dx);
}

void CpuOps::swiglu_forward(const SwigluForward& args) {
  const Check check("swiglu_forward");
  check.rank("out", args.out, DType::f32, 2);
  const std::int64_t rows = args.out.extent(0);
  const std::int64_t hidden = args.out.extent(1);
  check.shape("gate_up", args.gate_up, DType::f32, {rows, 2 * hidden});
  const float* gate_up = args.gate_up.as<float>();
  float* out = args.out.as<float>();
  parallel_range(threads_, rows, kActivationCost * hidden, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const float* gate = gate_up + n * 2 * hidden;
      const float* up = gate + hidden;
      float* row = out + n * hidden;
#pragma omp simd
      for (std::int64_t f = 0; f < hidden; ++f) row[f] = gate[f] * vector_sigmoid(gate[f]) * up[f];
    }
  });
}

void CpuOps::swiglu_backward(const SwigluBackward& args) {
  const Check check("swiglu_backward");
  check.rank("dout", args.dout, DType::f32, 2);
  const std::int64_t rows = args.dout.extent(0);
  const std::int64_t hidden = args.dout.extent(1);
  check.shape("gate_up", args.gate_up, DType::f32, {rows, 2 * hidden});
  check.shape("dgate_up", args.dgate_up, DType::f32, {rows, 2 * hidden});
  const float* gate_up = args.gate_up.as<float>();
  const float* dout = args.dout.as<float>();
  float* dgate_up = args.dgate_up.as<float>();
  parallel_range(threads_, rows, kActivationCost * hidden, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const float* gate = gate_up + n * 2 * hidden;
      const float* up = gate + hidden;
      const float* gradient = dout + n * hidden;
      float* dgate = dgate_up + n * 2 * hidden;
      float* dup = dgate + hidden;
#pragma omp simd
      for (std::int64_t f = 0; f < hidden; ++f) {
        const float g = gate[f];
        const float u = up[f];
        const float s = vector_sigmoid(g);
        dgate[f] = gradient[f] * u * s * (1.0F + g * (1.0F - s));
        dup[f] = gradient[f] * g * s;
      }
    }
  });
}

void CpuOps::add(const Tensor& out, const Tensor& a, const Tensor& b) {
  const Check check("add");
  check.rank("a", a, DType::f32, 2);
  check.shape("b", b, DType::f32, {a.extent(0), a.extent(1)});
  check.shape("out", out, DType::f32, {a.extent(0), a.extent(1)});
  const float* left = a.as<float>();
  const float* right = b.as<float>();
  float* sum = out.as<float>();
  parallel_range(threads_, a.size(), 1, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) sum[i] = left[i] + right[i];
  });
}

}  // namespace sinkscope
