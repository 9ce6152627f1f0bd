// The fp32 CPU backend: reference and product at once. One .cpp file per family of operations.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cpu/workspace.h"
#include "kernels/ops.h"

namespace sinkscope {

class CpuOps final : public Ops {
 public:
  /// `threads` 0: OpenMP's default (OMP_NUM_THREADS or the processors). Throws
  /// std::invalid_argument when negative.
  explicit CpuOps(int threads);

  std::string device_name() const override;
  std::string description() const override;
  DType compute_dtype() const override { return DType::f32; }
  std::string gpu_name() const override { return {}; }
  bool has_fp8() const override { return true; }

  Buffer allocate(std::size_t bytes) override;
  std::optional<std::size_t> memory_available() const override;
  void reserve(const BackendExtents&) override {}
  void copy_from_host(const Tensor& dst, const void* src) override;
  void copy_to_host(void* dst, const Tensor& src) override;
  std::function<void()> copy_to_host_later(void* dst, const Tensor& src) override;
  void copy(const Tensor& dst, const Tensor& src) override;
  void zero(const Tensor& dst) override;
  void zero_each(std::span<const Tensor> arrays) override;
  void convert(const Tensor& dst, const Tensor& src) override { copy(dst, src); }
  void synchronize() override {}

  void embedding_forward(const EmbeddingForward& args) override;
  void embedding_backward(const EmbeddingBackward& args) override;
  void norm_forward(const NormForward& args) override;
  void norm_backward(const NormBackward& args) override;
  void linear_forward(const LinearForward& args) override;
  void linear_backward(const LinearBackward& args) override;
  void rope(const Rope& args) override;
  void qk_norm_forward(const QkNormForward& args) override;
  void qk_norm_backward(const QkNormBackward& args) override;
  void attention_forward(const AttentionForward& args) override;
  void attention_backward(const AttentionBackward& args) override;
  void gelu_forward(const GeluForward& args) override;
  void gelu_backward(const GeluBackward& args) override;
  void swiglu_forward(const SwigluForward& args) override;
  void swiglu_backward(const SwigluBackward& args) override;
  void add(const Tensor& out, const Tensor& a, const Tensor& b) override;
  void cross_entropy(const CrossEntropy& args) override;
  void sum_of_squares(const SumOfSquares& args) override;
  void clip_scale(const ClipScale& args) override;
  void adamw_step(const AdamwStep& args) override;

  void sink_sums(const SinkSums& args) override;
  void norm_sums(const NormSums& args) override;

  void isolate_query(const IsolateQuery& args) override;
  void attention_statistics(const AttentionStatistics& args) override;
  void row_l2(const RowL2& args) override;
  void direction_sums(const DirectionSums& args) override;
  void abs_statistics(const AbsStatistics& args) override;

  double time_ms(const std::function<void()>& work) override;
  void mark() override;
  std::vector<double> marked_ms() override;
  std::size_t peak_memory() const override;
  std::size_t total_memory() const override;
  void range_push(const char*, std::int64_t) noexcept override {}
  void range_pop() noexcept override {}

 private:
  void release(std::byte* data) noexcept override;

  /// sums (C) += column sums of x (N, C): linear.cpp.
  void add_column_sums(const Tensor& sums, const Tensor& x);

  /// Part of a segment that one thread works on: optimizer.cpp.
  struct SegmentPart {
    std::int64_t segment = 0;
    std::int64_t begin = 0;
    std::int64_t end = 0;
  };
  void cut_segments(const char* op, std::span<const Segment> segments, std::int64_t size);

  /// cos and sin of t * theta^(-2d/R), (length, R/2) each: rope.cpp.
  struct RotaryTable {
    double theta = 0;
    std::int64_t half = 0;
    std::int64_t length = 0;
    std::vector<float> cosine;
    std::vector<float> sine;

    /// Turns the first R channels of `heads` neighbouring heads by the angles of t = `index`; `sign` -1: back.
    void rotate(float* vectors, std::int64_t heads, std::int64_t head_dim, std::int64_t index, float sign) const;
  };
  /// Of R = `width` channels, for sequences of `length`.
  const RotaryTable& rotary_table(const Rotation& rotation, std::int64_t width, std::int64_t length);

  int threads_ = 1;
  Workspace workspace_;
  std::vector<SegmentPart> segment_parts_;
  std::vector<RotaryTable> rotary_tables_;
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

}  // namespace sinkscope
