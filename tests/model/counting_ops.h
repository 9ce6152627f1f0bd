// A backend that does what another does, remembers the buffers that were asked of it and counts how often the host
// waits for values, arrays are zeroed and operations are called.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/forwarding_ops.h"

namespace sinkscope::test {

class CountingOps final : public ForwardingOps {
 public:
  explicit CountingOps(std::unique_ptr<Ops> inner) : ForwardingOps(*inner), owner_(std::move(inner)) {}

  std::vector<std::size_t> allocations;  // bytes, in order
  int reads = 0;                         // copies to the host
  int zeros = 0;
  int attention_statistics_calls = 0;
  std::map<std::string, int> calls;      // of the operations of a training step, and of their optional parts
  std::vector<std::string> order;        // the same, and "wait" where the host waited for values

  Buffer allocate(std::size_t bytes) override {
    allocations.push_back(bytes);
    return inner_.allocate(bytes);  // which also frees it
  }
  void copy_to_host(void* dst, const Tensor& src) override {
    wait();
    inner_.copy_to_host(dst, src);
  }
  std::function<void()> copy_to_host_later(void* dst, const Tensor& src) override {
    return [this, fill = inner_.copy_to_host_later(dst, src)] {
      wait();
      fill();
    };
  }
  void zero(const Tensor& dst) override {
    ++zeros;
    inner_.zero(dst);
  }
  void zero_each(std::span<const Tensor> arrays) override {
    ++zeros;
    inner_.zero_each(arrays);
  }
  void embedding_forward(const EmbeddingForward& args) override {
    count("embedding_forward");
    inner_.embedding_forward(args);
  }
  void embedding_backward(const EmbeddingBackward& args) override {
    count("embedding_backward");
    inner_.embedding_backward(args);
  }
  void norm_forward(const NormForward& args) override {
    count("norm_forward");
    inner_.norm_forward(args);
  }
  void norm_backward(const NormBackward& args) override {
    count("norm_backward");
    count("norm_backward: dx_sums", args.dx_sums);
    inner_.norm_backward(args);
  }
  void linear_forward(const LinearForward& args) override {
    count("linear_forward");
    count("linear_forward: bias", args.bias);
    count("linear_forward: gelu", args.gelu);
    count("linear_forward: swiglu", args.swiglu);
    inner_.linear_forward(args);
  }
  void linear_backward(const LinearBackward& args) override {
    count("linear_backward: dx", args.dx);
    count("linear_backward: dweight", args.dweight);
    count("linear_backward: dbias", args.dbias);
    count("linear_backward: gelu_input", args.gelu_input);
    count("linear_backward: swiglu_input", args.swiglu_input);
    count("linear_backward: dx_sums", args.dx_sums);
    inner_.linear_backward(args);
  }
  void rope(const Rope& args) override {
    count("rope");
    inner_.rope(args);
  }
  void qk_norm_forward(const QkNormForward& args) override {
    count("qk_norm_forward");
    if (args.rotation) count("qk_norm_forward: rotation");
    inner_.qk_norm_forward(args);
  }
  void qk_norm_backward(const QkNormBackward& args) override {
    count("qk_norm_backward");
    if (args.rotation) count("qk_norm_backward: rotation");
    inner_.qk_norm_backward(args);
  }
  void attention_forward(const AttentionForward& args) override {
    count("attention_forward");
    inner_.attention_forward(args);
  }
  void attention_backward(const AttentionBackward& args) override {
    count("attention_backward");
    count("attention_backward: dqkv_sums", args.dqkv_sums);
    inner_.attention_backward(args);
  }
  void gelu_forward(const GeluForward& args) override {
    count("gelu_forward");
    inner_.gelu_forward(args);
  }
  void gelu_backward(const GeluBackward& args) override {
    count("gelu_backward");
    inner_.gelu_backward(args);
  }
  void swiglu_forward(const SwigluForward& args) override {
    count("swiglu_forward");
    inner_.swiglu_forward(args);
  }
  void swiglu_backward(const SwigluBackward& args) override {
    count("swiglu_backward");
    inner_.swiglu_backward(args);
  }
  void add(const Tensor& out, const Tensor& a, const Tensor& b) override {
    count("add");
    inner_.add(out, a, b);
  }
  void cross_entropy(const CrossEntropy& args) override {
    count("cross_entropy");
    inner_.cross_entropy(args);
  }
  void adamw_step(const AdamwStep& args) override {
    count("adamw_step");
    inner_.adamw_step(args);
  }
  void attention_statistics(const AttentionStatistics& args) override {
    ++attention_statistics_calls;
    inner_.attention_statistics(args);
  }

 private:
  void wait() {
    ++reads;
    order.emplace_back("wait");
  }
  void count(const char* name) {
    ++calls[name];
    order.emplace_back(name);
  }
  void count(const char* name, const Tensor& given) {
    if (given) count(name);
  }

  std::unique_ptr<Ops> owner_;
};

}  // namespace sinkscope::test
