// The table of contents of the mathematics: every operation the engine is made of, with its
// formula, shapes and dtypes. One abstract `Ops`; `kernels/cpu` implements it for fp32 on the CPU,
// `kernels/cuda` for fp32 and bf16 on a GPU.
//
// Symbols: B sequences, T positions, N = B*T rows, C channels, H query heads, G key/value heads
// (H % G == 0, query head h reads key/value head h / (H/G)), D head dim, F MLP hidden size,
// V vocabulary, K sink positions that are watched.
//
// Conventions
// - Arguments travel in plain structs built by the caller with designated initialisers. A view
//   whose `data` is null is an optional argument that was not given; "optional" marks those.
// - "+=" outputs are accumulated into; every other output is overwritten, whatever it held.
// - `real` tensors hold the compute dtype of the backend (f32 on the CPU, f32 or bf16 on a GPU).
//   Statistics, gradients of parameters ("dweight" and the like), master weights and moments are f32.
// - Wrong shapes or dtypes throw std::invalid_argument naming the op and the tensor.
// - Operations are enqueued on the stream of the Ops object; on the CPU they run at once.
// - For a fixed thread count every operation is deterministic, bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace sinkscope {

enum class NormKind : std::uint8_t { layernorm, rmsnorm };
enum class GeluKind : std::uint8_t { tanh, erf };

/// Residual add and normalisation in one pass over a row x of `sum = x + delta` (or of x alone):
/// layernorm: out = (s - mean) * rstd * weight + bias, rstd = 1/sqrt(mean((s-mean)^2) + eps)
///   (Ba et al. 2016); rmsnorm: out = s * rstd * weight, rstd = 1/sqrt(mean(s^2) + eps)
///   (Zhang and Sennrich 2019).
struct NormForward {
  NormKind kind = NormKind::rmsnorm;
  Tensor x{};      // (N, C) real
  Tensor delta{};  // optional (N, C) real, added to x first
  Tensor sum{};    // (N, C) real, output, given exactly when delta is; may alias x
  Tensor weight;   // (C) real
  Tensor bias{};   // optional (C) real; layernorm only
  float eps = 1e-5F;
  Tensor out;      // (N, C) real
  Tensor mean{};   // (N) f32; layernorm only
  Tensor rstd;     // (N) f32
  Tensor l2{};     // optional (N) f32: the Euclidean norm of each row of the sum
};

/// out[n,:] = wte[tokens[n],:] (+ wpe[n % T,:]), and the first norm of it in the same pass.
struct EmbeddingForward {
  Tensor out;     // (N, C) real
  Tensor tokens;  // (B, T) i32, each in [0, V)
  Tensor wte;     // (V, C) real
  Tensor wpe;     // optional (>= T, C) real, learned positions
  NormForward norm{};  // where its `out` is given: of these rows, so without x, delta and sum
};

/// dwte[tokens[n],:] += dout[n,:]; dwpe[t,:] += sum_b dout[b,t,:].
struct EmbeddingBackward {
  Tensor dout;    // (N, C) real
  Tensor tokens;  // (B, T) i32
  Tensor dwte;    // (V, C) +=
  Tensor dwpe;    // optional (>= T, C) +=
};

/// Gradient of NormForward with respect to the normalised row and the parameters.
struct NormBackward {
  NormKind kind = NormKind::rmsnorm;
  Tensor x;       // (N, C) real: the row that was normalised (the sum)
  Tensor dout;    // (N, C) real
  Tensor weight;  // (C)
  Tensor mean;    // (N) f32; layernorm only
  Tensor rstd;    // (N) f32
  Tensor dx;      // (N, C) +=, the gradient of the residual stream
  Tensor dweight; // (C) +=
  Tensor dbias;   // optional (C) +=
  /// Optional (C) +=: column sums of dx as it then is, the gradient of a bias that is added to the stream.
  Tensor dx_sums{};
};

/// How a matrix is rounded to FP8 for a product, and how large it is: scale * x to the nearest number of E4M3 (at most
/// 448), or of E5M2 (at most 57344) where it is an output gradient, of two the even one; what is larger to the largest,
/// what is not finite to NaN (Micikevicius et al. 2022, "FP8 Formats for Deep Learning").
struct Fp8Scaling {
  Tensor scale;    // (1) f32, a power of two
  Tensor inverse;  // (1) f32, of the scale; aligned to 16 bytes, as cuBLASLt asks
  Tensor amax;     // (1) f32: raised to the largest magnitude, which is NaN where x holds one
};

/// The products of a linear map in FP8: of rounded operands, summed in f32 and multiplied by both inverse scales. I and
/// O must be multiples of kFp8Multiple; on a GPU with bf16 alone, and one that has such products. Absent without
/// scalings.
struct Fp8Linear {
  Fp8Scaling x, weight, dout;  // forward takes amax of the first two, backward of the last
  bool measure = false;        // takes amax alone: the products are as without
  explicit operator bool() const { return static_cast<bool>(x.scale); }
};
constexpr std::int64_t kFp8Multiple = 16;
constexpr float kLargestE4m3 = 448, kLargestE5m2 = 57344;

/// out = x weight^T + bias; gelu = GELU(out); swiglu = silu(gate) up, gate and up being the halves of out's columns.
struct LinearForward {
  Tensor out;     // (N, O) real
  Tensor x;       // (N, I) real
  Tensor weight;  // (O, I) real
  Tensor bias;    // optional (O) real
  Tensor gelu{};  // optional (N, O) real
  GeluKind gelu_kind = GeluKind::tanh;
  Tensor swiglu{};  // optional (N, O / 2) real, without gelu
  Fp8Linear fp8{};
};

/// dx = dout weight (or dx += when `accumulate`); dweight += dout^T x; dbias += column sums of dout. With `gelu_input`
/// z, of which x is the GELU, dx is the gradient of z: dout weight times GELU'(z), never accumulated; dx_sums += column
/// sums of dx, the gradient of a bias that z had. With `swiglu_input`, gate and up, of which x is the SwiGLU,
/// dswiglu_input is their gradient; dx is memory to work in, which then holds anything, and nothing is accumulated.
struct LinearBackward {
  Tensor dout;    // (N, O) real
  Tensor x;       // (N, I) real; needed for dweight
  Tensor weight;  // (O, I) real; needed for dx
  Tensor dx;      // optional (N, I)
  Tensor dweight; // optional (O, I) +=
  Tensor dbias;   // optional (O) +=
  bool accumulate = false;
  Tensor gelu_input{};  // optional (N, I) real: z
  GeluKind gelu_kind = GeluKind::tanh;
  Tensor dx_sums{};     // optional (I) +=; with gelu_input only
  Tensor swiglu_input{}, dswiglu_input{};  // optional (N, 2 I) real, together and without gelu_input
  bool replace = false; // dweight = instead of +=, whatever it holds
  Fp8Linear fp8{};
};

/// Rotary position embedding, "rotate half" form as in Llama checkpoints of the transformers
/// library (Su et al. 2021): pairs (d, d + R/2) of the first R channels, angle t * theta^(-2d/R); the
/// other D - R channels stay (GPT-NeoX, Black et al. 2022). In place on the first `heads` heads of
/// every row (queries then keys; values come after and stay). After QK-norm it is part of QkNormForward.
struct Rope {
  Tensor qkv;           // (B, T, heads_total, D) real, in and out
  int heads = 0;        // H + G
  std::int64_t width = 0;  // R, even, at most D; 0: D
  double theta = 1e4;
  bool inverse = false; // true: rotate by minus the angle, which is the backward pass
  std::int64_t first_index = 0;  // t of position 0 alone, which causal controls shift
};

/// Rotary embedding as part of another operation; its fields as in Rope.
struct Rotation {
  std::int64_t width = 0;  // R, even, at most D; 0: D
  double theta = 1e4;
  std::int64_t first_index = 0;  // t of position 0 alone

  std::int64_t index(std::int64_t position) const { return position == 0 ? first_index : position; }  // t
};

/// RMS normalisation of every query and key head vector, before rotary embedding (Qwen3's QK-norm), and that embedding
/// in the same pass: out = rotate(in * rstd * weight), rstd = 1/sqrt(mean_d(in^2) + eps); values are copied. The
/// product is not rounded before it is rotated.
struct QkNormForward {
  Tensor in;         // (B, T, H+2G, D) real
  Tensor out;        // (B, T, H+2G, D) real, not aliasing `in`
  int query_heads = 0;
  int kv_heads = 0;
  Tensor q_weight;   // (D)
  Tensor k_weight;   // (D)
  float eps = 1e-6F;
  Tensor rstd;       // (B*T, H+G) f32
  std::optional<Rotation> rotation{};  // absent: nothing is rotated
};

/// In place: `dqkv` holds the gradient of `out` and becomes the gradient of `in`, rotated back first where forward
/// rotated; that of values stays.
struct QkNormBackward {
  Tensor in;         // (B, T, H+2G, D) real, as given to forward
  Tensor dqkv;       // (B, T, H+2G, D) real, in and out
  int query_heads = 0;
  int kv_heads = 0;
  Tensor q_weight;   // (D)
  Tensor k_weight;   // (D)
  Tensor rstd;       // (B*T, H+G) f32
  Tensor dq_weight;  // (D) +=
  Tensor dk_weight;  // (D) +=
  std::optional<Rotation> rotation{};  // as given to forward
};

/// Causal attention, online softmax, never a T x T matrix in memory: A[t,k] = exp(scale q_t.k_k - lse_t) for k <= t,
/// out_t = sum_k A[t,k] v_k, scale = 1/sqrt(D). Sink scores (Gu et al., ICLR 2025), out of the same pass, for k < K:
/// sink[b,h,k] = 1/(T-k) sum_{t>=k} A[t,k]. A sink logit z_h stands beside the scores of every query of its head and
/// has neither key nor value (Miller 2023 for z = 0, "softmax1"; learned in gpt-oss, OpenAI 2025): lse_t = ln(exp(z_h)
/// + sum_{k<=t} exp(scale q_t.k_k)), so that the weights of a query sum to 1 - exp(z_h - lse_t).
struct AttentionForward {
  Tensor qkv;   // (B, T, H+2G, D) real: queries, keys, values
  int query_heads = 0;
  int kv_heads = 0;
  Tensor out;   // (B, T, H, D) real
  Tensor lse;   // (B, H, T) f32, natural logarithm
  Tensor sink;  // optional (B, H, K) f32, K <= T
  Tensor sink_logits{};  // optional (H) real: z
};

/// Gradient of AttentionForward, recomputing A from lse block by block. Sink logits are part of lse, so dqkv does not
/// ask for them: dsink_logits[h] -= sum_{b,t} exp(z_h - lse[b,h,t]) sum_d out[b,t,h,d] dout[b,t,h,d].
struct AttentionBackward {
  Tensor qkv;   // (B, T, H+2G, D) real
  int query_heads = 0;
  int kv_heads = 0;
  Tensor out;   // (B, T, H, D) real
  Tensor dout;  // (B, T, H, D) real
  Tensor lse;   // (B, H, T) f32
  Tensor dqkv;  // (B, T, H+2G, D) real
  Tensor sink_logits{};   // (H) real; needed for dsink_logits
  Tensor dsink_logits{};  // optional (H) +=
  Tensor dqkv_sums{};     // optional ((H+2G) D) f32 +=: sums of dqkv over B and T, the gradient of a bias that qkv had
  std::optional<Rotation> rotation{};  // that qkv was given; dqkv is rotated back, the gradient of what it was before
};

/// Everything about A that needs a second pass over the scores (probe passes only). Recomputes
/// A from lse; means over queries t >= 1 unless said otherwise. T >= 2. With sink logits all of it is about the weights
/// on keys, which then sum to less than 1.
struct AttentionStatistics {
  Tensor qkv;           // (B, T, H+2G, D) real
  int query_heads = 0;
  int kv_heads = 0;
  Tensor lse;           // (B, H, T) f32
  Tensor sink;          // (B, H, K) f32: as in AttentionForward
  Tensor first_mass;    // (B, H) f32: mean of A[t,0]
  Tensor first_argmax;  // (B, H) f32: share of queries with A[t,0] >= every other A[t,k]
  Tensor entropy;       // (B, H) f32: mean over all t of -sum_k A ln A, nats
  Tensor key_mass;      // (B, H, T) f32: sum_t A[t,k]; over k they sum to T, less T sink_logit_mass
  Tensor cos_first;     // (B, H) f32: mean of cos(q_t, k_0)
  Tensor cos_rest;      // (B, H) f32: mean over t >= 1 and 1 <= j <= t of cos(q_t, k_j)
  Tensor sink_logits{};      // (H) real: z; needed for sink_logit_mass
  Tensor sink_logit_mass{};  // optional (B, H) f32: mean over all t of exp(z_h - lse_t)
};

/// A mask edit after AttentionForward: the query at `position` p attends to itself alone, and to its head's sink logit
/// where there is one. A[p,k] are the weights that `lse` implies, s = scale q_p.k_p, w = exp(s) / (exp(z_h) + exp(s)),
/// or 1 without sink logits. sink[b,h,k] += ([k == p] w - A[p,k]) / (T-k) for k <= p, k < K; then lse[b,h,p] becomes
/// s - ln w and out[b,p,h] = w v_p.
struct IsolateQuery {
  Tensor qkv;   // (B, T, H+2G, D) real
  int query_heads = 0;
  int kv_heads = 0;
  std::int64_t position = 0;  // p < T
  Tensor out;   // (B, T, H, D) real, in and out
  Tensor lse;   // (B, H, T) f32, in and out
  Tensor sink;  // optional (B, H, K) f32, in and out, K <= T
  Tensor sink_logits{};  // optional (H) real, as the forward pass had them
};

/// GELU (Hendrycks and Gimpel 2016). erf: out = x/2 (1 + erf(x/sqrt(2))), x times the normal
/// distribution function; tanh, their approximation: out = x/2 (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3))).
struct GeluForward {
  GeluKind kind = GeluKind::tanh;
  Tensor x;    // (N, F) real
  Tensor out;  // (N, F) real
};

struct GeluBackward {
  GeluKind kind = GeluKind::tanh;
  Tensor x;     // (N, F) real
  Tensor dout;  // (N, F) real
  Tensor dx;    // (N, F) real, may alias dout
  Tensor dx_sums{};  // optional (F) +=: column sums of dx
};

/// SwiGLU (Shazeer 2020): out = silu(gate) * up; gate is the first F columns, up the last F.
struct SwigluForward {
  Tensor gate_up;  // (N, 2F) real
  Tensor out;      // (N, F) real
};

struct SwigluBackward {
  Tensor gate_up;   // (N, 2F) real
  Tensor dout;      // (N, F) real
  Tensor dgate_up;  // (N, 2F) real
};

/// Softmax cross-entropy. losses[n] = logsumexp(logits[n,:]) - logits[n,targets[n]]; with
/// `gradient`, logits are overwritten by scale * (softmax - onehot). A target of -1 is ignored:
/// loss 0, gradient row 0.
struct CrossEntropy {
  Tensor logits;   // (N, V) real, in and out
  Tensor targets;  // (N) i32, -1 or in [0, V)
  Tensor losses;   // (N) f32
  bool gradient = false;
  float scale = 1.0F;  // of the gradient, e.g. 1 / number of targets
};

/// A named stretch of the flat parameter, gradient and optimizer arrays.
struct Segment {
  std::int64_t begin = 0;
  std::int64_t size = 0;
  bool decay = false;  // decoupled weight decay applies
};

/// sums[s] = sum of x[i]^2 over segment s, accumulated in f64 in a fixed order.
struct SumOfSquares {
  Tensor x;                           // (P) f32
  std::span<const Segment> segments;  // S of them
  Tensor sums;                        // (S) f64
};

/// norm = sqrt(sum of sums), scale = min(1, max_norm / norm) (1 when max_norm <= 0).
/// The scale of a non-finite norm is NaN.
struct ClipScale {
  Tensor sums;  // (S) f64
  double max_norm = 0;
  Tensor out;   // (2) f32: norm, scale
};

/// AdamW with decoupled decay (Loshchilov and Hutter 2019), g = scale * grad:
/// m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2;
/// p -= lr * (m/(1-beta1^t) / (sqrt(v/(1-beta2^t)) + eps) + decay*wd*p).
/// Does nothing when the scale is not finite.
struct AdamwStep {
  Tensor param;                       // (P) f32
  Tensor grad;                        // (P) f32
  Tensor compute{};                   // (P) real, output: param rounded; optional where real is f32
  Tensor m;                           // (P) f32
  Tensor v;                           // (P) f32
  std::span<const Segment> segments;
  Tensor clip;                        // (2) f32 of ClipScale
  double lr = 0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0;
  std::int64_t step = 1;              // t, from 1
};

/// Sink scores summed over sequences, and how many of them lie above the threshold:
/// scores[l,h,k] += sum_b sink[l,b,h,k]; above[l,h,k] += number of b with sink[l,b,h,k] > threshold.
/// In f64 in a fixed order. Other numbers of heads may stand for scores.
struct SinkSums {
  Tensor sink;    // (L, B, H, K) f32
  float threshold = 0;
  Tensor scores;  // (L, H, K) f64 +=
  Tensor above;   // optional (L, H, K) f64 +=
};

/// Row norms of R places in a model, or ratios of two, x = norms (/ over), summed over sequences:
/// first[r,p] += sum_b x[r,b,p] for p < K; rest[r] += sum_b mean_{t>=K} x[r,b,t], NaN when T = K;
/// ratio[r] += sum_b x[r,b,0] / mean_{t>=1} x[r,b,t]. In f64 in a fixed order.
struct NormSums {
  Tensor norms;   // (R, B, T) f32, T >= 2
  Tensor over{};  // optional (R, B, T) f32
  Tensor first;   // (R, K) f64 +=, 1 <= K <= T
  Tensor rest;    // (R) f64 +=
  Tensor ratio;   // (R) f64 +=
};

/// Euclidean norms of J of the M vectors that a row is made of (1: the row itself), one vector after the other:
/// out[j,n] = |x[n,first+j,:]|.
struct RowL2 {
  Tensor x;       // (N, M, C) real
  int first = 0;
  Tensor out;     // (J, N) f32, first + J <= M
};

/// Directions at one position, summed over sequences in f64 in a fixed order: with u_b = x[b,t,:] / |x[b,t,:]|
/// sum[c] += sum_b u_b[c]; count += number of b. Vectors of length 0 are left out of both.
struct DirectionSums {
  Tensor x;                   // (B, T, C) real
  std::int64_t position = 0;  // t
  Tensor sum;                 // (C) f64 +=
  Tensor count;               // (1) f64 +=
};

/// Largest magnitude of a matrix, row and column of its first place in row-major order, and the median of
/// magnitudes: the lower of the two middle ones for an even count. NaN counts as larger than infinity.
struct AbsStatistics {
  Tensor x;    // (N, C) real, not empty
  Tensor out;  // (4) f64: maximum, its row, its column, median
};

struct BackendExtents;  // kernels/backend_memory.h

/// Frees what Ops::allocate returned.
class Ops;
struct BufferDeleter {
  Ops* ops = nullptr;
  void operator()(std::byte* data) const;
};
using Buffer = std::unique_ptr<std::byte[], BufferDeleter>;

/// Work that is done again and again: the same operations with the same arguments on the same tensors.
class RepeatedWork {
 public:
  virtual ~RepeatedWork() = default;
  /// Does the work, by calling it or as it was recorded.
  virtual void run(const std::function<void()>& work) = 0;
};

class Ops {
 public:
  virtual ~Ops() = default;

  /// "cpu" and the compute dtype's name, the GEMM library and the thread count, for logs.
  virtual std::string device_name() const = 0;
  virtual std::string description() const = 0;
  virtual DType compute_dtype() const = 0;
  /// The GPU's name as its driver gives it, e.g. "NVIDIA H200"; empty on the CPU.
  virtual std::string gpu_name() const = 0;
  /// Whether Fp8Linear is possible; on the CPU rounding is simulated.
  virtual bool has_fp8() const = 0;

  // Memory of the device. Buffers are aligned to at least 256 bytes and not initialised.
  virtual Buffer allocate(std::size_t bytes) = 0;
  /// Bytes that can be had now, on a GPU those that the backend itself holds counted in; nothing where no limit is
  /// known.
  virtual std::optional<std::size_t> memory_available() const = 0;
  /// On a GPU takes what operations within these extents need for themselves (cuda_memory() says how much), so
  /// that none of them allocates; one that needs more throws std::logic_error from now on. Without it such
  /// memory grows to what is asked. On the CPU nothing.
  virtual void reserve(const BackendExtents& extents) = 0;
  virtual void copy_from_host(const Tensor& dst, const void* src) = 0;
  virtual void copy_to_host(void* dst, const Tensor& src) = 0;
  /// Begins copy_to_host of what src holds at this point of the device's work, and does not wait. What it returns waits
  /// for that point alone and fills dst; it is called once, or not at all.
  [[nodiscard]] virtual std::function<void()> copy_to_host_later(void* dst, const Tensor& src) = 0;
  virtual void copy(const Tensor& dst, const Tensor& src) = 0;  // same dtype and size
  virtual void zero(const Tensor& dst) = 0;
  virtual void zero_each(std::span<const Tensor> arrays) = 0;  // (n) f32 each, small ones together
  virtual void convert(const Tensor& dst, const Tensor& src) = 0;  // between f32 and real, same size
  virtual void synchronize() = 0;

  virtual void embedding_forward(const EmbeddingForward& args) = 0;
  virtual void embedding_backward(const EmbeddingBackward& args) = 0;
  virtual void norm_forward(const NormForward& args) = 0;
  virtual void norm_backward(const NormBackward& args) = 0;
  virtual void linear_forward(const LinearForward& args) = 0;
  virtual void linear_backward(const LinearBackward& args) = 0;
  virtual void rope(const Rope& args) = 0;
  virtual void qk_norm_forward(const QkNormForward& args) = 0;
  virtual void qk_norm_backward(const QkNormBackward& args) = 0;
  virtual void attention_forward(const AttentionForward& args) = 0;
  virtual void attention_backward(const AttentionBackward& args) = 0;
  virtual void gelu_forward(const GeluForward& args) = 0;
  virtual void gelu_backward(const GeluBackward& args) = 0;
  virtual void swiglu_forward(const SwigluForward& args) = 0;
  virtual void swiglu_backward(const SwigluBackward& args) = 0;
  /// out = a + b, (N, C) each; `out` may alias either.
  virtual void add(const Tensor& out, const Tensor& a, const Tensor& b) = 0;
  virtual void cross_entropy(const CrossEntropy& args) = 0;
  virtual void sum_of_squares(const SumOfSquares& args) = 0;
  virtual void clip_scale(const ClipScale& args) = 0;
  virtual void adamw_step(const AdamwStep& args) = 0;

  /// On a GPU one that records the operations of its second run as a CUDA graph, which later runs launch; elsewhere one
  /// that calls them. Such work neither copies from or to the host nor waits. The Ops must outlive it.
  virtual std::unique_ptr<RepeatedWork> repeated_work();

  // Probes of every step.
  virtual void sink_sums(const SinkSums& args) = 0;
  virtual void norm_sums(const NormSums& args) = 0;

  // Causal tests only.
  virtual void isolate_query(const IsolateQuery& args) = 0;

  // Probe passes only.
  virtual void attention_statistics(const AttentionStatistics& args) = 0;
  virtual void row_l2(const RowL2& args) = 0;
  virtual void direction_sums(const DirectionSums& args) = 0;
  virtual void abs_statistics(const AbsStatistics& args) = 0;

  // Measuring; nothing that is computed depends on it.
  /// Milliseconds from the start to the end of what `work` enqueues, by the device's own clock; waits for the end.
  virtual double time_ms(const std::function<void()>& work) = 0;
  /// Notes a point in the order of what is enqueued, by the device's own clock, and does not wait for it. A mark costs
  /// the device about a microsecond.
  virtual void mark() = 0;
  /// Waits until the device is past every mark; returns the milliseconds of each after the first, whose own are 0, in
  /// the order they were made, and forgets them all.
  virtual std::vector<double> marked_ms() = 0;
  /// The most bytes in use so far: on a GPU of the whole device, by all its users; on the CPU by this process.
  virtual std::size_t peak_memory() const = 0;
  /// Bytes that the device has.
  virtual std::size_t total_memory() const = 0;
  // A named stretch of work for profilers (NVTX), inside the one that is open; use StageRange.
  virtual void range_push(const char* name, std::int64_t index) noexcept = 0;
  virtual void range_pop() noexcept = 0;

 protected:
  friend struct BufferDeleter;
  virtual void release(std::byte* data) noexcept = 0;
};

/// A named stretch of work on a profiler's time line for as long as the object lives. It marks when the
/// host enqueues; profilers project it onto the device.
class StageRange {
 public:
  /// `index` >= 0, of a layer or a step, is appended to the name.
  StageRange(Ops& ops, const char* name, std::int64_t index = -1) : ops_(ops) { ops_.range_push(name, index); }
  ~StageRange() { ops_.range_pop(); }
  StageRange(const StageRange&) = delete;
  StageRange& operator=(const StageRange&) = delete;

 private:
  Ops& ops_;
};

/// Picks the algorithm of a large matrix product: the one on record for `product`, or what `time` finds when it has
/// timed several on the arrays at hand, which then goes on record. Algorithms round differently, so a record is what
/// makes runs equal to the bit. `product` names GPU, library version, shape, dtypes, epilogue and, where it could do
/// it, the version of our own kernel; algorithms are one word of text, "own-kernel" and "apart" (without the epilogue)
/// among them.
using ChooseAlgorithm =
    std::function<std::string(const std::string& product, const std::function<std::string()>& time)>;

/// How a CUDA backend is made.
struct CudaOptions {
  int device = 0;                     // as CUDA numbers them
  DType compute = DType::bf16;        // or f32
  ChooseAlgorithm choose{};           // not given: the library's first guess, untimed
  double worth_timing = 1e10;         // FLOPs of a product, some 15 us: of smaller ones the library's first guess
};

/// "CUDA 13.0, cuBLASLt 130100", what this build's CUDA backend is made of; empty where it has none.
std::string cuda_description();

/// The GPUs that this build and this machine can use; empty with the reason in `*why_none`.
std::vector<std::string> cuda_devices(std::string* why_none = nullptr);

/// The CUDA backend on one GPU. Throws std::runtime_error naming the device and what is missing.
std::unique_ptr<Ops> make_cuda_ops(const CudaOptions& options);

/// The CPU backend: fp32, OpenMP, GEMM through OpenBLAS. `threads` 0 takes OpenMP's default.
std::unique_ptr<Ops> make_cpu_ops(int threads = 0);

/// Name and version of a backend's GEMM library and the cores it was tuned for, for `doctor`.
std::string gemm_library_description();

}  // namespace sinkscope
