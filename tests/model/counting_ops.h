// A backend that does what another does, remembers the buffers that were asked of it and counts how often the host
// waits for values, arrays are zeroed and operations are called.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/ops.h"

namespace sinkscope::test {

class CountingOps final : public Ops {
 public:
  explicit CountingOps(std::unique_ptr<Ops> inner) : inner_(std::move(inner)) {}

  std::vector<std::size_t> allocations;  // bytes, in order
  int reads = 0;                         // copies to the host
  int zeros = 0;
  int attention_statistics_calls = 0;
  std::map<std::string, int> calls;      // of the operations of a training step, and of their optional parts

  Buffer allocate(std::size_t bytes) override {
    allocations.push_back(bytes);
    return inner_->allocate(bytes);  // which also frees it
  }
  std::optional<std::size_t> memory_available() const override { return inner_->memory_available(); }
  void reserve(const BackendExtents& extents) override { inner_->reserve(extents); }
  std::string device_name() const override { return inner_->device_name(); }
  std::string description() const override { return inner_->description(); }
  DType compute_dtype() const override { return inner_->compute_dtype(); }
  std::string gpu_name() const override { return inner_->gpu_name(); }
  void copy_from_host(const Tensor& dst, const void* src) override { inner_->copy_from_host(dst, src); }
  void copy_to_host(void* dst, const Tensor& src) override {
    ++reads;
    inner_->copy_to_host(dst, src);
  }
  std::function<void()> copy_to_host_later(void* dst, const Tensor& src) override {
    return [this, wait = inner_->copy_to_host_later(dst, src)] {
      ++reads;
      wait();
    };
  }
  void copy(const Tensor& dst, const Tensor& src) override { inner_->copy(dst, src); }
  void zero(const Tensor& dst) override {
    ++zeros;
    inner_->zero(dst);
  }
  void convert(const Tensor& dst, const Tensor& src) override { inner_->convert(dst, src); }
  void synchronize() override { inner_->synchronize(); }
  void embedding_forward(const EmbeddingForward& args) override {
    count("embedding_forward");
    inner_->embedding_forward(args);
  }
  void embedding_backward(const EmbeddingBackward& args) override {
    count("embedding_backward");
    inner_->embedding_backward(args);
  }
  void norm_forward(const NormForward& args) override {
    count("norm_forward");
    inner_->norm_forward(args);
  }
  void norm_backward(const NormBackward& args) override {
    count("norm_backward");
    count("norm_backward: dx_sums", args.dx_sums);
    inner_->norm_backward(args);
  }
  void linear_forward(const LinearForward& args) override {
    count("linear_forward");
    count("linear_forward: bias", args.bias);
    count("linear_forward: gelu", args.gelu);
    inner_->linear_forward(args);
  }
  void linear_backward(const LinearBackward& args) override {
    count("linear_backward: dx", args.dx);
    count("linear_backward: dweight", args.dweight);
    count("linear_backward: dbias", args.dbias);
    count("linear_backward: gelu_input", args.gelu_input);
    count("linear_backward: dx_sums", args.dx_sums);
    inner_->linear_backward(args);
  }
  void rope(const Rope& args) override {
    count("rope");
    inner_->rope(args);
  }
  void qk_norm_forward(const QkNormForward& args) override {
    count("qk_norm_forward");
    if (args.rotation) count("qk_norm_forward: rotation");
    inner_->qk_norm_forward(args);
  }
  void qk_norm_backward(const QkNormBackward& args) override {
    count("qk_norm_backward");
    if (args.rotation) count("qk_norm_backward: rotation");
    inner_->qk_norm_backward(args);
  }
  void attention_forward(const AttentionForward& args) override {
    count("attention_forward");
    inner_->attention_forward(args);
  }
  void attention_backward(const AttentionBackward& args) override {
    count("attention_backward");
    inner_->attention_backward(args);
  }
  void gelu_forward(const GeluForward& args) override {
    count("gelu_forward");
    inner_->gelu_forward(args);
  }
  void gelu_backward(const GeluBackward& args) override {
    count("gelu_backward");
    inner_->gelu_backward(args);
  }
  void swiglu_forward(const SwigluForward& args) override {
    count("swiglu_forward");
    inner_->swiglu_forward(args);
  }
  void swiglu_backward(const SwigluBackward& args) override {
    count("swiglu_backward");
    inner_->swiglu_backward(args);
  }
  void add(const Tensor& out, const Tensor& a, const Tensor& b) override {
    count("add");
    inner_->add(out, a, b);
  }
  void cross_entropy(const CrossEntropy& args) override {
    count("cross_entropy");
    inner_->cross_entropy(args);
  }
  void sum_of_squares(const SumOfSquares& args) override { inner_->sum_of_squares(args); }
  void clip_scale(const ClipScale& args) override { inner_->clip_scale(args); }
  void adamw_step(const AdamwStep& args) override {
    count("adamw_step");
    inner_->adamw_step(args);
  }
  void sink_sums(const SinkSums& args) override { inner_->sink_sums(args); }
  void norm_sums(const NormSums& args) override { inner_->norm_sums(args); }
  void isolate_query(const IsolateQuery& args) override { inner_->isolate_query(args); }
  void attention_statistics(const AttentionStatistics& args) override {
    ++attention_statistics_calls;
    inner_->attention_statistics(args);
  }
  void row_l2(const RowL2& args) override { inner_->row_l2(args); }
  void direction_sums(const DirectionSums& args) override { inner_->direction_sums(args); }
  void abs_statistics(const AbsStatistics& args) override { inner_->abs_statistics(args); }
  double time_ms(const std::function<void()>& work) override { return inner_->time_ms(work); }
  void mark() override { inner_->mark(); }
  std::vector<double> marked_ms() override { return inner_->marked_ms(); }
  std::size_t peak_memory() const override { return inner_->peak_memory(); }
  std::size_t total_memory() const override { return inner_->total_memory(); }
  void range_push(const char* name, std::int64_t index) noexcept override { inner_->range_push(name, index); }
  void range_pop() noexcept override { inner_->range_pop(); }

 protected:
  void release(std::byte*) noexcept override {}  // its buffers belong to the inner backend

 private:
  void count(const char* name) { ++calls[name]; }
  void count(const char* name, const Tensor& given) {
    if (given) ++calls[name];
  }

  std::unique_ptr<Ops> inner_;
};

}  // namespace sinkscope::test
