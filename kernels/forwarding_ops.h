// A backend that does all as another one does: what counts or times operations overrides those it looks at.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace sinkscope {

class ForwardingOps : public Ops {
 public:
  std::string device_name() const override { return inner_.device_name(); }
  std::string description() const override { return inner_.description(); }
  DType compute_dtype() const override { return inner_.compute_dtype(); }
  std::string gpu_name() const override { return inner_.gpu_name(); }
  bool has_fp8() const override { return inner_.has_fp8(); }

  Buffer allocate(std::size_t bytes) override { return inner_.allocate(bytes); }  // which also frees it
  std::optional<std::size_t> memory_available() const override { return inner_.memory_available(); }
  void reserve(const BackendExtents& extents) override { inner_.reserve(extents); }
  void copy_from_host(const Tensor& dst, const void* src) override { inner_.copy_from_host(dst, src); }
  void copy_to_host(void* dst, const Tensor& src) override { inner_.copy_to_host(dst, src); }
  std::function<void()> copy_to_host_later(void* dst, const Tensor& src) override {
    return inner_.copy_to_host_later(dst, src);
  }
  void copy(const Tensor& dst, const Tensor& src) override { inner_.copy(dst, src); }
  void zero(const Tensor& dst) override { inner_.zero(dst); }
  void zero_each(std::span<const Tensor> arrays) override { inner_.zero_each(arrays); }
  void convert(const Tensor& dst, const Tensor& src) override { inner_.convert(dst, src); }
  void synchronize() override { inner_.synchronize(); }

  void embedding_forward(const EmbeddingForward& args) override { inner_.embedding_forward(args); }
  void embedding_backward(const EmbeddingBackward& args) override { inner_.embedding_backward(args); }
  void norm_forward(const NormForward& args) override { inner_.norm_forward(args); }
  void norm_backward(const NormBackward& args) override { inner_.norm_backward(args); }
  void linear_forward(const LinearForward& args) override { inner_.linear_forward(args); }
  void linear_backward(const LinearBackward& args) override { inner_.linear_backward(args); }
  void rope(const Rope& args) override { inner_.rope(args); }
  void qk_norm_forward(const QkNormForward& args) override { inner_.qk_norm_forward(args); }
  void qk_norm_backward(const QkNormBackward& args) override { inner_.qk_norm_backward(args); }
  void attention_forward(const AttentionForward& args) override { inner_.attention_forward(args); }
  void attention_backward(const AttentionBackward& args) override { inner_.attention_backward(args); }
  void gelu_forward(const GeluForward& args) override { inner_.gelu_forward(args); }
  void gelu_backward(const GeluBackward& args) override { inner_.gelu_backward(args); }
  void swiglu_forward(const SwigluForward& args) override { inner_.swiglu_forward(args); }
  void swiglu_backward(const SwigluBackward& args) override { inner_.swiglu_backward(args); }
  void add(const Tensor& out, const Tensor& a, const Tensor& b) override { inner_.add(out, a, b); }
  void cross_entropy(const CrossEntropy& args) override { inner_.cross_entropy(args); }
  void sum_of_squares(const SumOfSquares& args) override { inner_.sum_of_squares(args); }
  void clip_scale(const ClipScale& args) override { inner_.clip_scale(args); }
  void adamw_step(const AdamwStep& args) override { inner_.adamw_step(args); }
  // Not that of inner_: all that is done is to be seen.
  std::unique_ptr<RepeatedWork> repeated_work() override { return Ops::repeated_work(); }
  void sink_sums(const SinkSums& args) override { inner_.sink_sums(args); }
  void norm_sums(const NormSums& args) override { inner_.norm_sums(args); }
  void isolate_query(const IsolateQuery& args) override { inner_.isolate_query(args); }
  void attention_statistics(const AttentionStatistics& args) override { inner_.attention_statistics(args); }
  void row_l2(const RowL2& args) override { inner_.row_l2(args); }
  void direction_sums(const DirectionSums& args) override { inner_.direction_sums(args); }
  void abs_statistics(const AbsStatistics& args) override { inner_.abs_statistics(args); }

  double time_ms(const std::function<void()>& work) override { return inner_.time_ms(work); }
  void mark() override { inner_.mark(); }
  std::vector<double> marked_ms() override { return inner_.marked_ms(); }
  std::size_t peak_memory() const override { return inner_.peak_memory(); }
  std::size_t total_memory() const override { return inner_.total_memory(); }
  void range_push(const char* name, std::int64_t index) noexcept override { inner_.range_push(name, index); }
  void range_pop() noexcept override { inner_.range_pop(); }

 protected:
  /// `inner` must outlive it.
  explicit ForwardingOps(Ops& inner) : inner_(inner) {}
  void release(std::byte*) noexcept override {}  // its buffers belong to the inner backend

  Ops& inner_;
};

}  // namespace sinkscope
