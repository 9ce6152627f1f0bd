// The CUDA backend: fp32 or bf16 compute on one GPU, one stream. One .cu file per family of
// operations. `real` tensors are f32 or bf16 as the backend was made; gradients of parameters,
// statistics, master weights and moments are f32.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/ops.h"

namespace sinkscope {

class Check;

struct CudaEventDeleter {
  void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
};
using CudaEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, CudaEventDeleter>;
namespace cuda {
struct Rotary;
}

/// What is done to a product before it is stored: d = GELU(product) or SwiGLU(product), the product itself in aux; d =
/// the gradient of aux, of whose GELU or SwiGLU the product is the gradient.
enum class ProductEpilogue : std::uint8_t { none, gelu, gelu_gradient, swiglu, swiglu_gradient };
/// What a product multiplies: the compute dtype, or FP8 numbers, of which b may be in E5M2.
enum class ProductOperands : std::uint8_t { real, e4m3, e4m3_e5m2 };

class CudaOps final : public Ops {
 public:
  explicit CudaOps(const CudaOptions& options);
  ~CudaOps() override;
  CudaOps(const CudaOps&) = delete;
  CudaOps& operator=(const CudaOps&) = delete;

  std::string device_name() const override;
  std::string description() const override;
  DType compute_dtype() const override { return real_; }
  std::string gpu_name() const override { return properties_.name; }
  bool has_fp8() const override;
  /// That operations are enqueued on, for work that must be ordered with them.
  cudaStream_t stream() const { return stream_; }

  Buffer allocate(std::size_t bytes) override;
  std::optional<std::size_t> memory_available() const override;
  void reserve(const BackendExtents& extents) override;
  void copy_from_host(const Tensor& dst, const void* src) override;
  void copy_to_host(void* dst, const Tensor& src) override;
  std::function<void()> copy_to_host_later(void* dst, const Tensor& src) override;
  void copy(const Tensor& dst, const Tensor& src) override;
  void zero(const Tensor& dst) override;
  void zero_each(std::span<const Tensor> arrays) override;
  void convert(const Tensor& dst, const Tensor& src) override;
  void synchronize() override;

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

  std::unique_ptr<RepeatedWork> repeated_work() override;

  double time_ms(const std::function<void()>& work) override;
  void mark() override;
  std::vector<double> marked_ms() override;
  std::size_t peak_memory() const override;
  std::size_t total_memory() const override;
  void range_push(const char* name, std::int64_t index) noexcept override;
  void range_pop() noexcept override;

 private:
  void release(std::byte* data) noexcept override;

  /// At least `bytes` of device memory, 256-byte aligned, not initialised; valid until the next
  /// call (the stream orders its users). Grows to the largest request and stays; after reserve() a larger
  /// one throws std::logic_error.
  std::byte* scratch(std::size_t bytes);
  template <class T>
  T* scratch_of(std::int64_t count) {
    return reinterpret_cast<T*>(scratch(static_cast<std::size_t>(count) * sizeof(T)));
  }

  /// One matrix product of cuBLASLt in its column-major terms: d (m, n) = a^T? (m, k) b^T? (k, n) + beta d.
  struct Product {
    std::int64_t m = 0, n = 0, k = 0;
    bool transpose_a = false, transpose_b = false;
    std::int64_t lda = 0, ldb = 0, ldd = 0;
    DType output = DType::f32;
    bool accumulate = false;
    ProductOperands operands = ProductOperands::real;
    ProductEpilogue epilogue = ProductEpilogue::none;
    bool bias = false;
    bool sums = false;  // of d's rows are wanted as well, which decides whether an epilogue pays
    std::uint32_t alignment = 256;  // of the pointers, bytes
    auto operator<=>(const Product&) const = default;
  };
  struct Operands {
    const void *a, *b;
    void* d;                     // (m, n); of swiglu (m / 2, n), of swiglu_gradient (2 m, n)
    const void* bias = nullptr;  // (m), added to every column
    /// z of an activation, written by gelu and swiglu, read by their gradients: (m, n), of swiglu_gradient (2 m, n).
    void* aux = nullptr;
    const void *a_scale = nullptr, *b_scale = nullptr;  // (1) f32 on the device, by which FP8 products are multiplied
    float* sums = nullptr;       // where our own kernel may leave column sums of d's rows: (ceil(n / kOwnSumRows), m)
  };
  struct Plan;
  std::string product_name(const Product& product) const;
  /// What a product with an epilogue does, by operations of their own; and what follows the product with it. Both add
  /// to nothing, so that they may be done any number of times.
  struct Apart {
    std::function<void()> all, after_product;
  };
  Plan* plan(const char* op, const Product& product, const Operands& operands, const Apart* apart);
  std::vector<cublasLtMatmulAlgo_t> propose(Plan& plan, const Product& product, const Operands& operands, int most);
  /// Whether sm90/activated_product.h takes this product and its epilogue, on this GPU; and does it.
  bool has_own_kernel(const Product& product) const;
  void run_own_kernel(const Product& product, const Operands& operands);
  bool is_faster(const std::function<void()>& one, const std::function<void()>& other);
  /// Who did a product: nobody, cuBLASLt or our own kernel.
  enum class By : std::uint8_t { nobody, library, own_kernel };
  By multiply_by_plan(const char* op, const Product& product, const Operands& operands, const Apart* apart);
  cublasLtMatmulAlgo_t fastest(const char* op, const Plan& plan, const Product& product, const Operands& operands,
                               const std::vector<cublasLtMatmulAlgo_t>& candidates);
  void run(const char* op, const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const Product& product,
           const Operands& operands);
  /// A product with an epilogue. By nobody: there is no algorithm for it, or `apart` was faster; the product is still
  /// to do.
  By try_multiply(const char* op, const Product& product, const Operands& operands, const Apart& apart);
  void multiply(const char* op, const Product& product, const Operands& operands);
  bool fuses_gelu(GeluKind kind, const Tensor& z) const;
  bool fuses_swiglu(const Tensor& z) const;
  void expect_fp8(const char* op) const;
  bool forward_in_fp8(const LinearForward& args);
  bool backward_in_fp8(const LinearBackward& args);
  void multiply_gelu_gradient(const LinearBackward& args, const Product& product,
                              const std::function<void()>& multiply_apart);
  void multiply_swiglu_gradient(const LinearBackward& args, const Product& product,
                                const std::function<void()>& multiply_apart);
  /// sums (C) += column sums of x (N, C), through partial ones in scratch memory: (blocks of kBiasRows rows, C).
  void add_column_sums(const char* op, const Tensor& sums, const Tensor& x);
  const float* column_partials(const char* op, const Tensor& x);
  void add_partials(const char* op, const Tensor& sums, const float* partials, std::int64_t count);
  /// gelu_backward without the last step of its column sums: their partial ones, or null.
  const float* gelu_gradient(const GeluBackward& args);

  /// cos and sin of t * theta^(-2d/R), (length, R/2, 2): rope.cu.
  struct RotaryTable {
    double theta = 0;
    std::int64_t half = 0;
    std::int64_t length = 0;
    Buffer values;
  };
  const float2* rotary_table(double theta, std::int64_t half, std::int64_t length);
  /// For kernels on sequences of `length`, whose heads turn in their first R = `width` channels.
  cuda::Rotary rotary(const Rotation& rotation, std::int64_t width, std::int64_t length, bool inverse);

  /// The segments of the flat arrays cut into chunks of equal work: optimizer.cu.
  struct ChunkTable;
  const ChunkTable& chunk_table(const char* op, std::span<const Segment> segments, std::int64_t size);

  /// norm_forward, of rows that are looked up where `lookup` is given: norm.cu.
  void norm_rows(const Check& check, const NormForward& args, const EmbeddingForward* lookup);

  /// Whether this build and this GPU have the kernels of sm90/.
  bool has_sm90() const;
  /// Whether they have its attention for heads of `head_dim`.
  bool has_sm90_attention(std::int64_t head_dim) const;

  int device_ = 0;
  DType real_ = DType::bf16;
  ChooseAlgorithm choose_;
  double worth_timing_ = 0;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  cublasLtHandle_t blas_ = nullptr;
  Buffer scratch_;
  std::size_t scratch_bytes_ = 0;
  bool reserved_ = false;
  Buffer attention_counters_;  // of the persistent attention kernels (sm90/attention.h), 0 between them
  Buffer blas_workspace_;
  std::size_t blas_workspace_bytes_ = 0;
  std::map<Product, std::unique_ptr<Plan>> plans_;
  std::vector<RotaryTable> rotary_tables_;
  std::vector<std::unique_ptr<ChunkTable>> chunk_tables_;  // of all gradients, and of a rank's share
  class RecordedWork;
  std::int64_t moves_ = 0;  // of memory that operations keep for themselves, and recorded work points to
  struct PinnedCopy;
  std::shared_ptr<PinnedCopy> pinned(std::size_t bytes, bool idle);
  std::vector<std::shared_ptr<PinnedCopy>> pinned_copies_;  // those that nobody else holds are free
  std::size_t peak_memory_ = 0;  // at the newest allocations
  std::vector<CudaEvent> mark_events_;  // made when a mark first needs one, then used again
  std::size_t marks_ = 0;           // of them recorded since the last marked_ms()
};

}  // namespace sinkscope
