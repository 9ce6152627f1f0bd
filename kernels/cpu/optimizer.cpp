// Gradient norm, clipping and AdamW over the flat arrays. Segments are cut into parts of a fixed
// size, so sums do not depend on the number of threads.
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"

namespace sinkscope {
namespace {

constexpr std::int64_t kSegmentPart = 16384;  // elements; 64 KiB of fp32

/// Sum of x[i]^2, in enough running sums that an addition need not wait for the one before it.
double squares(const float* x, std::int64_t size) {
  constexpr std::int64_t kSums = 64;
  double sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums <= size; i += kSums) {
#pragma omp simd
    for (std::int64_t j = 0; j < kSums; ++j) {
      const auto value = static_cast<double>(x[i + j]);
      sums[j] += value * value;
    }
  }
  double total = 0;
  for (; i < size; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

void CpuOps::cut_segments(const char* op, std::span<const Segment> segments, std::int64_t size) {
  segment_parts_.clear();
  std::int64_t index = 0;
  for (const Segment& segment : segments) {
    if (segment.begin < 0 || segment.size < 0 || segment.begin > size || segment.size > size - segment.begin)
      Check(op).fail("segments", "holds [" + std::to_string(segment.begin) + ", +" + std::to_string(segment.size) +
                                     ") at index " + std::to_string(index) + ", outside an array of " +
                                     std::to_string(size));
    for (std::int64_t at = 0; at < segment.size; at += kSegmentPart)
      segment_parts_.push_back(
          {index, segment.begin + at, segment.begin + std::min(at + kSegmentPart, segment.size)});
    ++index;
  }
}

void CpuOps::sum_of_squares(const SumOfSquares& args) {
  const Check check("sum_of_squares");
  check.rank("x", args.x, DType::f32, 1);
  check.shape("sums", args.sums, DType::f64, {static_cast<std::int64_t>(args.segments.size())});
  cut_segments("sum_of_squares", args.segments, args.x.size());
  const auto parts = static_cast<std::int64_t>(segment_parts_.size());
  const float* x = args.x.as<float>();
  auto* part_sums = workspace_.take<double>(parts);
  parallel_range(threads_, parts, kSegmentPart, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const SegmentPart& part = segment_parts_[static_cast<std::size_t>(p)];
      part_sums[p] = squares(x + part.begin, part.end - part.begin);
    }
  });
  auto* sums = args.sums.as<double>();
  std::fill_n(sums, args.segments.size(), 0.0);
  for (std::int64_t p = 0; p < parts; ++p) sums[segment_parts_[static_cast<std::size_t>(p)].segment] += part_sums[p];
}

void CpuOps::clip_scale(const ClipScale& args) {
  const Check check("clip_scale");
  check.rank("sums", args.sums, DType::f64, 1);
  check.shape("out", args.out, DType::f32, {2});
  check.that(!std::isnan(args.max_norm), "max_norm", "is not a number");
  const auto* sums = args.sums.as<double>();
  double total = 0;
  for (std::int64_t s = 0; s < args.sums.size(); ++s) total += sums[s];
  const double norm = std::sqrt(total);
  float* out = args.out.as<float>();
  out[0] = static_cast<float>(norm);
  if (!std::isfinite(out[0])) {
    out[1] = std::numeric_limits<float>::quiet_NaN();
  } else {
    out[1] = args.max_norm > 0 && norm > args.max_norm ? static_cast<float>(args.max_norm / norm) : 1.0F;
  }
}

void CpuOps::adamw_step(const AdamwStep& args) {
  const Check check("adamw_step");
  check.rank("param", args.param, DType::f32, 1);
  const std::int64_t size = args.param.size();
  check.shape("grad", args.grad, DType::f32, {size});
  check.shape("m", args.m, DType::f32, {size});
  check.shape("v", args.v, DType::f32, {size});
  check.shape("clip", args.clip, DType::f32, {2});
  check.that(!args.compute, "compute", "is given, but here the weights are f32: param is what is computed with");
  check.that(args.step >= 1, "step", "is " + std::to_string(args.step) + ", expected >= 1");
  cut_segments("adamw_step", args.segments, size);
  const float scale = args.clip.as<float>()[1];
  if (!std::isfinite(scale)) return;

  float* param = args.param.as<float>();
  const float* grad = args.grad.as<float>();
  float* first = args.m.as<float>();
  float* second = args.v.as<float>();
  const auto steps = static_cast<double>(args.step);
  const auto beta1 = static_cast<float>(args.beta1);
  const auto beta2 = static_cast<float>(args.beta2);
  const auto rest1 = static_cast<float>(1.0 - args.beta1);
  const auto rest2 = static_cast<float>(1.0 - args.beta2);
  const auto rate = static_cast<float>(args.lr / (1.0 - std::pow(args.beta1, steps)));
  const auto correction2 = static_cast<float>(1.0 / (1.0 - std::pow(args.beta2, steps)));
  const auto eps = static_cast<float>(args.eps);
  const auto decay_rate = static_cast<float>(args.lr * args.weight_decay);
  const auto parts = static_cast<std::int64_t>(segment_parts_.size());
  parallel_range(threads_, parts, kSegmentPart, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p) {
      const SegmentPart& part = segment_parts_[static_cast<std::size_t>(p)];
      const float decay = args.segments[static_cast<std::size_t>(part.segment)].decay ? decay_rate : 0.0F;
#pragma omp simd
      for (std::int64_t i = part.begin; i < part.end; ++i) {
        const float g = scale * grad[i];
        const float m = beta1 * first[i] + rest1 * g;
        const float v = beta2 * second[i] + rest2 * (g * g);
        first[i] = m;
        second[i] = v;
        param[i] -= rate * m / (std::sqrt(v * correction2) + eps) + decay * param[i];
      }
    }
  });
}

}  // namespace sinkscope
