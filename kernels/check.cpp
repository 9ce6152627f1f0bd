#include "kernels/check.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "kernels/ops.h"

namespace sinkscope {
namespace {

std::string expected(DType dtype, std::initializer_list<std::int64_t> extents) {
  std::string out = "(";
  for (const std::int64_t extent : extents) {
    if (out.size() > 1) out += ", ";
    out += std::to_string(extent);
  }
  return out + ") " + name_of(dtype);
}

bool has_shape(const Tensor& tensor, DType dtype, std::initializer_list<std::int64_t> extents) {
  if (tensor.dtype != dtype || tensor.rank != static_cast<int>(extents.size())) return false;
  int i = 0;
  for (const std::int64_t extent : extents)
    if (tensor.extent(i++) != extent) return false;
  return true;
}

}  // namespace

void Check::fail(const char* name, const std::string& message) const {
  throw std::invalid_argument(std::string(op_) + ": " + name + " " + message);
}

void Check::rank(const char* name, const Tensor& tensor, DType dtype, int rank) const {
  if (!tensor) fail(name, "is not given");
  if (tensor.dtype != dtype || tensor.rank != rank)
    fail(name, "is " + describe(tensor) + ", expected " + std::to_string(rank) + " dimensions of " + name_of(dtype));
}

void Check::shape(const char* name, const Tensor& tensor, DType dtype,
                  std::initializer_list<std::int64_t> extents) const {
  if (!tensor) fail(name, "is not given, expected " + expected(dtype, extents));
  optional_shape(name, tensor, dtype, extents);
}

void Check::optional_shape(const char* name, const Tensor& tensor, DType dtype,
                           std::initializer_list<std::int64_t> extents) const {
  if (tensor && !has_shape(tensor, dtype, extents))
    fail(name, "is " + describe(tensor) + ", expected " + expected(dtype, extents));
}

void Check::indices(const char* name, const Tensor& tensor, std::int64_t limit, const char* limit_name,
                    bool ignore) const {
  const auto* values = tensor.as<std::int32_t>();
  const std::int64_t lowest = ignore ? -1 : 0;
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    if (values[i] >= lowest && values[i] < limit) continue;
    fail(name, "holds " + std::to_string(values[i]) + " at index " + std::to_string(i) + ", expected " +
                   (ignore ? "-1 or " : "") + "a value in [0, " + limit_name + " = " + std::to_string(limit) + ")");
  }
}

int Check::blas_int(const char* name, std::int64_t value) const {
  if (value > std::numeric_limits<int>::max())
    fail(name, "has an extent of " + std::to_string(value) + ", over 2^31 - 1");
  return static_cast<int>(value);
}

AttentionExtents check_attention(const Check& check, const char* name, const Tensor& qkv, int query_heads,
                                 int kv_heads, DType real) {
  check.rank(name, qkv, real, 4);
  check.that(query_heads > 0 && kv_heads > 0 && query_heads % kv_heads == 0, name,
             "has " + std::to_string(query_heads) + " query heads, not a positive multiple of its " +
                 std::to_string(kv_heads) + " key/value heads");
  AttentionExtents extents;
  extents.sequences = qkv.extent(0);
  extents.length = qkv.extent(1);
  extents.query_heads = query_heads;
  extents.kv_heads = kv_heads;
  extents.head_dim = qkv.extent(3);
  check.that(extents.head_dim > 0, name, "is " + describe(qkv) + ", expected a head dimension over 0");
  check.shape(name, qkv, real, {extents.sequences, extents.length, extents.row_heads(), extents.head_dim});
  return extents;
}

void check_sink_logits(const Check& check, const Tensor& sink_logits, DType real, std::int64_t query_heads,
                       const char* derived_name, const Tensor& derived,
                       std::initializer_list<std::int64_t> derived_extents) {
  check.optional_shape("sink_logits", sink_logits, real, {query_heads});
  check.optional_shape(derived_name, derived, DType::f32, derived_extents);
  check.that(sink_logits || !derived, derived_name, "is given without sink_logits");
}

AttentionExtents check_isolate_query(const Check& check, const IsolateQuery& args, DType real) {
  const AttentionExtents extents = check_attention(check, "qkv", args.qkv, args.query_heads, args.kv_heads, real);
  const std::int64_t B = extents.sequences, T = extents.length, H = extents.query_heads;
  check.that(args.position >= 0 && args.position < T, "position",
             "is " + std::to_string(args.position) + ", expected one of " + std::to_string(T) + " positions");
  check.shape("out", args.out, real, {B, T, H, extents.head_dim});
  check.shape("lse", args.lse, DType::f32, {B, H, T});
  if (args.sink) {
    check.rank("sink", args.sink, DType::f32, 3);
    const std::int64_t K = args.sink.extent(2);
    check.shape("sink", args.sink, DType::f32, {B, H, K});
    check.that(K <= T, "sink", "is " + describe(args.sink) + ", expected at most T = " + std::to_string(T) + " keys");
  }
  check.optional_shape("sink_logits", args.sink_logits, real, {H});
  return extents;
}

std::int64_t check_rotation(const Check& check, const char* name, const Tensor& heads, const Rotation& rotation) {
  const auto [width, theta, first_index] = rotation;
  const std::int64_t D = heads.extent(3);
  if (width == 0)
    check.that(D % 2 == 0 && D > 0, name, "is " + describe(heads) + ", expected an even head dimension");
  else
    check.that(width > 0 && width % 2 == 0 && width <= D, "width",
               "is " + std::to_string(width) + ", expected an even number from 2 to the head dimension " +
                   std::to_string(D));
  check.that(theta > 0 && std::isfinite(theta), "theta",
             "is " + std::to_string(theta) + ", expected a positive number");
  check.that(first_index >= 0, "first_index", "is " + std::to_string(first_index) + ", expected 0 or more");
  return width == 0 ? D : width;
}

std::int64_t check_rope(const Check& check, const Rope& args, DType real) {
  check.rank("qkv", args.qkv, real, 4);
  check.that(args.heads >= 0 && args.heads <= args.qkv.extent(2), "qkv",
             "is " + describe(args.qkv) + ", which has no " + std::to_string(args.heads) + " heads to rotate");
  return check_rotation(check, "qkv", args.qkv, {args.width, args.theta, args.first_index});
}

NormForward looked_up_norm(const Check& check, const EmbeddingForward& args) {
  NormForward norm = args.norm;
  check.that(!norm.x && !norm.delta && !norm.sum, "norm",
             "has rows of its own, expected none: it is of those that are looked up");
  norm.x = args.out;
  return norm;
}

Rope rope_back(const AttentionBackward& args) {
  return {.qkv = args.dqkv,
          .heads = args.query_heads + args.kv_heads,
          .width = args.rotation->width,
          .theta = args.rotation->theta,
          .inverse = true,
          .first_index = args.rotation->first_index};
}

void check_activated(const Check& check, const LinearForward& args, std::int64_t rows, std::int64_t outputs,
                     DType real) {
  check.optional_shape("gelu", args.gelu, real, {rows, outputs});
  if (!args.swiglu) return;
  check.that(!args.gelu, "swiglu", "is given with gelu; expected one of them");
  check.that(outputs % 2 == 0, "swiglu",
             "is given for " + std::to_string(outputs) + " outputs, expected gates and as many others");
  check.shape("swiglu", args.swiglu, real, {rows, outputs / 2});
}

void check_activation_input(const Check& check, const LinearBackward& args, DType real) {
  check.that(args.gelu_input || !args.dx_sums, "dx_sums", "is given without gelu_input, whose gradient it sums");
  check.that(static_cast<bool>(args.swiglu_input) == static_cast<bool>(args.dswiglu_input), "swiglu_input",
             "and dswiglu_input are expected together");
  if (args.swiglu_input) {
    check.that(!args.gelu_input, "swiglu_input", "is given with gelu_input; expected one of them");
    check.that(static_cast<bool>(args.dx), "swiglu_input", "is given without dx, which it is about");
    check.that(!args.accumulate, "swiglu_input", "is given with accumulate; expected one of them");
    for (const auto& [name, tensor] :
         {std::pair("swiglu_input", args.swiglu_input), std::pair("dswiglu_input", args.dswiglu_input)})
      check.shape(name, tensor, real, {args.dx.extent(0), 2 * args.dx.extent(1)});
  }
  if (!args.gelu_input) return;
  check.that(static_cast<bool>(args.dx), "gelu_input", "is given without dx, which it is about");
  check.that(!args.accumulate, "gelu_input", "is given with accumulate; expected one of them");
  check.shape("gelu_input", args.gelu_input, real, {args.dx.extent(0), args.dx.extent(1)});
  check.optional_shape("dx_sums", args.dx_sums, DType::f32, {args.dx.extent(1)});
}

void check_fp8(const Check& check, const Fp8Linear& fp8, std::int64_t inputs, std::int64_t outputs) {
  if (!fp8) return;
  for (const auto& [name, scaling] :
       {std::pair("fp8.x", fp8.x), std::pair("fp8.weight", fp8.weight), std::pair("fp8.dout", fp8.dout)}) {
    check.shape(name, scaling.scale, DType::f32, {1});
    check.shape(name, scaling.inverse, DType::f32, {1});
    check.shape(name, scaling.amax, DType::f32, {1});
  }
  check.that(inputs % kFp8Multiple == 0 && outputs % kFp8Multiple == 0, "fp8",
             "is of " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) +
                 " outputs, expected multiples of " + std::to_string(kFp8Multiple));
}

void check_fp8(const Check& check, const LinearBackward& args) {
  if (!args.fp8) return;
  const std::int64_t inputs = args.dx ? args.dx.extent(1) : args.dweight ? args.dweight.extent(1) : 0;
  check_fp8(check, args.fp8, inputs, args.dout.extent(1));
  check.that(!args.dx || !args.dweight || args.dweight.extent(1) == inputs, "dweight",
             "is " + describe(args.dweight) + ", expected as many inputs as dx, " + std::to_string(inputs));
}

SinkSumExtents check_sink_sums(const Check& check, const SinkSums& args) {
  check.rank("sink", args.sink, DType::f32, 4);
  const std::int64_t L = args.sink.extent(0), H = args.sink.extent(2), K = args.sink.extent(3);
  check.that(args.sink.size() > 0, "sink", "is " + describe(args.sink) + ", expected at least one score");
  check.shape("scores", args.scores, DType::f64, {L, H, K});
  check.optional_shape("above", args.above, DType::f64, {L, H, K});
  return {.layers = L, .sequences = args.sink.extent(1), .width = H * K};
}

NormSumExtents check_norm_sums(const Check& check, const NormSums& args) {
  check.rank("norms", args.norms, DType::f32, 3);
  check.rank("first", args.first, DType::f64, 2);
  const std::int64_t R = args.norms.extent(0), T = args.norms.extent(2), K = args.first.extent(1);
  check.that(T >= 2 && args.norms.size() > 0, "norms",
             "is " + describe(args.norms) + ", expected sequences of at least 2 positions");
  check.optional_shape("over", args.over, DType::f32, {R, args.norms.extent(1), T});
  check.that(K >= 1 && K <= T, "first",
             "is " + describe(args.first) + ", expected 1 to " + std::to_string(T) + " positions");
  check.shape("first", args.first, DType::f64, {R, K});
  check.shape("rest", args.rest, DType::f64, {R});
  check.shape("ratio", args.ratio, DType::f64, {R});
  return {.places = R, .sequences = args.norms.extent(1), .length = T, .positions = K};
}

RowL2Extents check_row_l2(const Check& check, const RowL2& args, DType real) {
  check.rank("x", args.x, real, 3);
  check.rank("out", args.out, DType::f32, 2);
  const std::int64_t N = args.x.extent(0), M = args.x.extent(1), J = args.out.extent(0);
  check.shape("out", args.out, DType::f32, {J, N});
  check.that(args.first >= 0 && args.first <= M, "x",
             "is " + describe(args.x) + " and has no vector " + std::to_string(args.first) + " in a row");
  check.that(J <= M - args.first, "out",
             "is " + describe(args.out) + ", expected at most " + std::to_string(M - args.first) + " vectors of a row");
  return {.rows = N, .vectors = M, .selected = J, .channels = args.x.extent(2)};
}

void check_direction_sums(const Check& check, const DirectionSums& args, DType real) {
  check.rank("x", args.x, real, 3);
  check.that(args.position >= 0 && args.position < args.x.extent(1), "x",
             "is " + describe(args.x) + " and has no position " + std::to_string(args.position));
  check.shape("sum", args.sum, DType::f64, {args.x.extent(2)});
  check.shape("count", args.count, DType::f64, {1});
}

void check_abs_statistics(const Check& check, const AbsStatistics& args, DType real) {
  check.rank("x", args.x, real, 2);
  check.that(args.x.size() > 0, "x", "is " + describe(args.x) + ", expected at least one element");
  check.shape("out", args.out, DType::f64, {4});
}

}  // namespace sinkscope
