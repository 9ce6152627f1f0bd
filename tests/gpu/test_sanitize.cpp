// Every operation once, at sizes that reach every edge and take the tools of compute-sanitizer seconds,
// not minutes: `test_gpu "[sanitize]"`. Outputs start poisoned, so each must be written whole. Whether
// they are right is for the other tests.
#include <cmath>

#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// Inputs and poisoned outputs on the GPU, and whether the outputs ended finite.
class Device {
 public:
  explicit Device(DType real) : both_(real) {}

  Ops& ops() { return both_.gpu(); }
  Tensor in(std::initializer_list<std::int64_t> extents) { return both_.input(extents, normals(extents)).gpu; }
  Tensor in32(std::initializer_list<std::int64_t> extents) { return both_.single(extents, normals(extents)).gpu; }
  Tensor tokens(std::initializer_list<std::int64_t> extents, std::int64_t vocabulary) {
    return both_.integers(extents, random_.tokens(size(extents), vocabulary)).gpu;
  }
  Tensor out(std::initializer_list<std::int64_t> extents) { return watch(both_.device_array(extents, both_.real())); }
  Tensor out32(std::initializer_list<std::int64_t> extents) { return watch(both_.device_array(extents, DType::f32)); }
  Tensor out64(std::initializer_list<std::int64_t> extents) { return watch(both_.device_array(extents, DType::f64)); }

  bool finite() {
    bool all = true;
    for (const Tensor& tensor : outputs_)
      for (const double x : both_.read(tensor)) all = all && std::isfinite(x);
    outputs_.clear();
    return all;
  }

 private:
  static std::int64_t size(std::initializer_list<std::int64_t> extents) {
    return Tensor(nullptr, DType::f32, extents).size();
  }
  Doubles normals(std::initializer_list<std::int64_t> extents) { return random_.normals(size(extents)); }
  Tensor watch(const Tensor& tensor) {
    outputs_.push_back(tensor);
    return tensor;
  }

  Backends both_;
  Random random_{41};
  std::vector<Tensor> outputs_;
};

struct Rows {
  std::int64_t rows, channels;
};
constexpr Rows kRows[] = {{3, 7}, {37, 264}, {5, 1025}};

}  // namespace

TEST_CASE("operations on rows write all of their outputs", "[sanitize]") {
  for (const DType real : kComputeTypes) {
    Device gpu(real);
    for (const auto [N, C] : kRows) {
      INFO(name_of(real) << ", " << N << " x " << C);
      for (const NormKind kind : {NormKind::layernorm, NormKind::rmsnorm}) {
        const bool layernorm = kind == NormKind::layernorm;
        const NormForward f{.kind = kind,
                            .x = gpu.in({N, C}),
                            .delta = gpu.in({N, C}),
                            .sum = gpu.out({N, C}),
                            .weight = gpu.in({C}),
                            .bias = layernorm ? gpu.in({C}) : Tensor{},
                            .out = gpu.out({N, C}),
                            .mean = layernorm ? gpu.out32({N}) : Tensor{},
                            .rstd = gpu.out32({N}),
                            .l2 = gpu.out32({N})};
        gpu.ops().norm_forward(f);
        gpu.ops().norm_backward({.kind = kind,
                                 .x = f.sum,
                                 .dout = gpu.in({N, C}),
                                 .weight = f.weight,
                                 .mean = f.mean,
                                 .rstd = f.rstd,
                                 .dx = gpu.in({N, C}),
                                 .dweight = gpu.in32({C}),
                                 .dbias = layernorm ? gpu.in32({C}) : Tensor{}});
      }
      const Tensor x = gpu.in({N, C}), gates = gpu.in({N, 2 * C});
      gpu.ops().gelu_forward({.x = x, .out = gpu.out({N, C})});
      gpu.ops().gelu_backward({.x = x, .dout = gpu.in({N, C}), .dx = gpu.out({N, C})});
      gpu.ops().swiglu_forward({.gate_up = gates, .out = gpu.out({N, C})});
      gpu.ops().swiglu_backward({.gate_up = gates, .dout = gpu.in({N, C}), .dgate_up = gpu.out({N, 2 * C})});
      gpu.ops().add(gpu.out({N, C}), x, gpu.in({N, C}));
      gpu.ops().row_l2({.x = x, .out = gpu.out32({N})});
      CHECK(std::isfinite(gpu.ops().abs_statistics(x).median));
      for (const bool gradient : {false, true})
        gpu.ops().cross_entropy({.logits = gpu.in({N, C}),
                                 .targets = gpu.tokens({N}, C),
                                 .losses = gpu.out32({N}),
                                 .gradient = gradient,
                                 .scale = 0.5F});
      const Tensor tokens = gpu.tokens({1, N}, 11);
      gpu.ops().embedding_forward(
          {.out = gpu.out({N, C}), .tokens = tokens, .wte = gpu.in({11, C}), .wpe = gpu.in({N, C})});
      gpu.ops().embedding_backward({.dout = x, .tokens = tokens, .dwte = gpu.in32({11, C}), .dwpe = gpu.in32({N, C})});
      CHECK(gpu.finite());
    }
  }
}

TEST_CASE("matrix products and flat operations write all of their outputs", "[sanitize]") {
  for (const DType real : kComputeTypes) {
    Device gpu(real);
    for (const auto [N, I] : kRows) {
      INFO(name_of(real) << ", " << N << " x " << I);
      const std::int64_t O = 72;
      const Tensor x = gpu.in({N, I}), weight = gpu.in({O, I}), dout = gpu.in({N, O});
      gpu.ops().linear_forward({.out = gpu.out({N, O}), .x = x, .weight = weight, .bias = gpu.in({O})});
      gpu.ops().linear_backward({.dout = dout,
                                 .x = x,
                                 .weight = weight,
                                 .dx = gpu.out({N, I}),
                                 .dweight = gpu.in32({O, I}),
                                 .dbias = gpu.in32({O})});
      CHECK(gpu.finite());
    }
    const std::int64_t P = 5000;
    const std::vector<Segment> segments = {{0, 64, true}, {64, 4031, true}, {4160, 3, false}, {4224, 776, true}};
    const Tensor grad = gpu.in32({P}), sums = gpu.out64({4}), clip = gpu.out32({2}), m = gpu.in32({P}),
                 v = gpu.in32({P});
    gpu.ops().zero(v);
    gpu.ops().sum_of_squares({.x = grad, .segments = segments, .sums = sums});
    gpu.ops().clip_scale({.sums = sums, .max_norm = 1, .out = clip});
    const Tensor param = gpu.in32({P});
    gpu.ops().adamw_step({.param = param,
                          .grad = grad,
                          .compute = real == DType::f32 ? Tensor{} : gpu.in({P}),
                          .m = m,
                          .v = v,
                          .segments = segments,
                          .clip = clip,
                          .lr = 1e-3,
                          .weight_decay = 0.1});
    gpu.ops().convert(gpu.out({P}), param);
    gpu.ops().copy(gpu.out32({P}), m);
    CHECK(gpu.finite());
  }
}

TEST_CASE("operations on heads write all of their outputs", "[sanitize]") {
  struct Shape {
    std::int64_t B, T;
    int H, G;
    std::int64_t D;
  };
  for (const DType real : kComputeTypes) {
    Device gpu(real);
    // The head dims with kernels of their own, T beside and at the tiles, grouped queries.
    for (const Shape s :
         {Shape{1, 65, 2, 1, 64}, {1, 128, 2, 2, 128}, {2, 33, 3, 3, 20}, {1, 200, 1, 1, 64}, {1, 2, 1, 1, 96}}) {
      INFO(name_of(real) << " B " << s.B << ", T " << s.T << ", H " << s.H << ", G " << s.G << ", D " << s.D);
      const std::int64_t heads = s.H + 2 * s.G, K = std::min<std::int64_t>(8, s.T);
      const Tensor raw = gpu.in({s.B, s.T, heads, s.D}), qkv = gpu.out({s.B, s.T, heads, s.D});
      const QkNormForward norm{.in = raw,
                               .out = qkv,
                               .query_heads = s.H,
                               .kv_heads = s.G,
                               .q_weight = gpu.in({s.D}),
                               .k_weight = gpu.in({s.D}),
                               .rstd = gpu.out32({s.B * s.T, s.H + s.G})};
      gpu.ops().qk_norm_forward(norm);
      gpu.ops().rope({.qkv = qkv, .heads = s.H + s.G, .theta = 1e4, .inverse = false});
      const AttentionForward f{.qkv = qkv,
                               .query_heads = s.H,
                               .kv_heads = s.G,
                               .out = gpu.out({s.B, s.T, s.H, s.D}),
                               .lse = gpu.out32({s.B, s.H, s.T}),
                               .sink = gpu.out32({s.B, s.H, K})};
      gpu.ops().attention_forward(f);
      const Tensor dqkv = gpu.out({s.B, s.T, heads, s.D});
      gpu.ops().attention_backward({.qkv = qkv,
                                    .query_heads = s.H,
                                    .kv_heads = s.G,
                                    .out = f.out,
                                    .dout = gpu.in({s.B, s.T, s.H, s.D}),
                                    .lse = f.lse,
                                    .dqkv = dqkv});
      gpu.ops().rope({.qkv = dqkv, .heads = s.H + s.G, .theta = 1e4, .inverse = true});
      gpu.ops().qk_norm_backward({.in = raw,
                                  .dqkv = dqkv,
                                  .query_heads = s.H,
                                  .kv_heads = s.G,
                                  .q_weight = norm.q_weight,
                                  .k_weight = norm.k_weight,
                                  .rstd = norm.rstd,
                                  .dq_weight = gpu.in32({s.D}),
                                  .dk_weight = gpu.in32({s.D})});
      const auto per_head = [&] { return gpu.out32({s.B, s.H}); };
      gpu.ops().attention_statistics({.qkv = qkv,
                                      .query_heads = s.H,
                                      .kv_heads = s.G,
                                      .lse = f.lse,
                                      .sink = gpu.out32({s.B, s.H, K}),
                                      .first_mass = per_head(),
                                      .first_argmax = per_head(),
                                      .entropy = per_head(),
                                      .key_mass = gpu.out32({s.B, s.H, s.T}),
                                      .cos_first = per_head(),
                                      .cos_rest = per_head()});
      CHECK(gpu.finite());
    }
  }
}
