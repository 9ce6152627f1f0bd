// Argument checks of the backends. Every failure is a std::invalid_argument whose message starts
// with the operation and names the tensor: "norm_forward: x is (2, 3) f32, expected (4, 3) f32".
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "kernels/tensor.h"

namespace sinkscope {

struct IsolateQuery;
struct SinkSums;
struct NormSums;
struct RowL2;
struct DirectionSums;
struct AbsStatistics;
struct AttentionBackward;
struct EmbeddingForward;
struct NormForward;
struct Rope;
struct Rotation;
struct LinearBackward;
struct LinearForward;
struct Fp8Linear;

class Check {
 public:
  explicit Check(const char* op) : op_(op) {}

  /// The tensor is given, of this dtype and this many dimensions.
  void rank(const char* name, const Tensor& tensor, DType dtype, int rank) const;
  /// The tensor is given, of this dtype and exactly these extents.
  void shape(const char* name, const Tensor& tensor, DType dtype, std::initializer_list<std::int64_t> extents) const;
  /// As shape(), unless the tensor was not given.
  void optional_shape(const char* name, const Tensor& tensor, DType dtype,
                      std::initializer_list<std::int64_t> extents) const;
  /// Throws "op: name message" unless `condition` holds.
  void that(bool condition, const char* name, const std::string& message) const {
    if (!condition) fail(name, message);
  }
  [[noreturn]] void fail(const char* name, const std::string& message) const;

  /// Every element of the i32 tensor is in [0, limit), or equal to -1 when `ignore` is set; the
  /// message names the first other index and its value. Host memory only.
  void indices(const char* name, const Tensor& tensor, std::int64_t limit, const char* limit_name, bool ignore) const;

  /// The value as the int that BLAS takes.
  int blas_int(const char* name, std::int64_t value) const;

 private:
  const char* op_;
};

/// Extents of what is summed over sequences, checked.
struct SinkSumExtents {
  std::int64_t layers = 0;     // L
  std::int64_t sequences = 0;  // B
  std::int64_t width = 0;      // H*K
};
SinkSumExtents check_sink_sums(const Check& check, const SinkSums& args);

struct NormSumExtents {
  std::int64_t places = 0;     // R
  std::int64_t sequences = 0;  // B
  std::int64_t length = 0;     // T
  std::int64_t positions = 0;  // K
};
NormSumExtents check_norm_sums(const Check& check, const NormSums& args);

/// Extents of what probe passes ask of hidden states of `real`, checked.
struct RowL2Extents {
  std::int64_t rows = 0;      // N
  std::int64_t vectors = 0;   // M
  std::int64_t selected = 0;  // J
  std::int64_t channels = 0;  // C
};
RowL2Extents check_row_l2(const Check& check, const RowL2& args, DType real = DType::f32);
void check_direction_sums(const Check& check, const DirectionSums& args, DType real = DType::f32);
void check_abs_statistics(const Check& check, const AbsStatistics& args, DType real = DType::f32);

/// Extents of grouped-query attention, checked: qkv is (B, T, H+2G, D) of `real`, H % G == 0.
struct AttentionExtents {
  std::int64_t sequences = 0;    // B
  std::int64_t length = 0;       // T
  std::int64_t query_heads = 0;  // H
  std::int64_t kv_heads = 0;     // G
  std::int64_t head_dim = 0;     // D

  std::int64_t group() const { return query_heads / kv_heads; }
  std::int64_t row_heads() const { return query_heads + 2 * kv_heads; }
  std::int64_t row_stride() const { return row_heads() * head_dim; }
  /// Offset of the vector of `head` (of H+2G) at position t of sequence b.
  std::int64_t offset(std::int64_t b, std::int64_t t, std::int64_t head) const {
    return ((b * length + t) * row_heads() + head) * head_dim;
  }
};

AttentionExtents check_attention(const Check& check, const char* name, const Tensor& qkv, int query_heads,
                                 int kv_heads, DType real = DType::f32);

/// Sink logits (H) of `real`, and what is (given only with them) made of them: `derived`, of these extents of f32.
void check_sink_logits(const Check& check, const Tensor& sink_logits, DType real, std::int64_t query_heads,
                       const char* derived_name, const Tensor& derived,
                       std::initializer_list<std::int64_t> derived_extents);

AttentionExtents check_isolate_query(const Check& check, const IsolateQuery& args, DType real);

/// What LinearForward has beside its output, (rows, outputs) of `real`, fits it.
void check_activated(const Check& check, const LinearForward& args, std::int64_t rows, std::int64_t outputs,
                     DType real);
/// LinearBackward::gelu_input or swiglu_input, of `real`, fits dx, which must be given and not accumulated into;
/// dx_sums fits it.
void check_activation_input(const Check& check, const LinearBackward& args, DType real);

/// Scalings are given all or none, and the extents of the linear map fit them.
void check_fp8(const Check& check, const Fp8Linear& fp8, std::int64_t inputs, std::int64_t outputs);
/// The same; both gradients have as many inputs.
void check_fp8(const Check& check, const LinearBackward& args);

/// R of the rotary embedding of heads (B, T, heads, D), its arguments checked: the width, or D for 0.
std::int64_t check_rotation(const Check& check, const char* name, const Tensor& heads, const Rotation& rotation);
/// Of Rope, its other arguments checked too.
std::int64_t check_rope(const Check& check, const Rope& args, DType real);
/// The norm of EmbeddingForward, of the rows that it looks up.
NormForward looked_up_norm(const Check& check, const EmbeddingForward& args);
/// What rotates the gradient of queries and keys back, by args.rotation.
Rope rope_back(const AttentionBackward& args);

}  // namespace sinkscope
