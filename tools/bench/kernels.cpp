#include "tools/bench/kernels.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "engine/model/decoder_memory.h"
#include "engine/model/parameters.h"
#include "engine/model/random.h"
#include "engine/train/trainer.h"
#include "tools/bench/step.h"

namespace sinkscope {
namespace {

constexpr std::size_t kRoundBytes = std::size_t{256} << 20;  // of all sets of arrays; caches hold at most 64 MB
constexpr std::size_t kMostSets = 64;
constexpr double kWindowMs = 2;  // hides what a launch costs the host
constexpr double kPatienceMs = 1000;

/// The cases of one config. Symbols as in kernels/ops.h; s bytes a real number.
class Cases : public std::enable_shared_from_this<Cases> {
 public:
  Cases(Ops& ops, const Config& config);
  std::vector<KernelCase> all();

 private:
  void rows();
  /// What a linear map of a step has beside its three products.
  struct LinearParts {
    bool bias = false, dbias = false;      // dbias: the gradient of its bias is its own, not that of a norm behind it
    const char* activation = "";            // that its output goes through: "gelu" or "swiglu"
    const char* input_activation = "";      // that its input came out of
    bool dx_sums = false;                   // with its input's gradient, that of the bias before the GELU
    bool in_block = true;
  };
  void linear(const std::string& name, std::int64_t O, std::int64_t I, std::int64_t rows, double calls,
              const LinearParts& parts);
  void linears();
  void heads();
  void attention();
  void mlp();
  void classifier();
  void flat();
  void probes();

  template <class Make>
  KernelCase& add(const std::string& name, double calls, double bytes, double flops, Make make) {
    const auto self = shared_from_this();
    cases_.push_back({name, calls, bytes, flops, [self, make](ArraySet& set) { return make(set); }});
    return cases_.back();
  }
  void grows(KernelCase& kernel, std::int64_t rows, double fixed_bytes, bool fp8 = false) const {
    kernel.rows = rows;
    kernel.fixed_bytes = fixed_bytes;
    if (fp8 && !ops_.gpu_name().empty()) kernel.product_rate = 2;
  }
  /// Scales of 1, for standard normal operands.
  Fp8Linear fp8_scales(ArraySet& set) const {
    constexpr float kOne = 1;
    const auto scaling = [&] {
      const Fp8Scaling made{.scale = set.zeros({1}, DType::f32),
                            .inverse = set.zeros({1}, DType::f32),
                            .amax = set.zeros({1}, DType::f32)};
      for (const Tensor& factor : {made.scale, made.inverse}) ops_.copy_from_host(factor, &kOne);
      return made;
    };
    return {.x = scaling(), .weight = scaling(), .dout = scaling()};
  }
  /// Runs `args` by the operation `Op`.
  template <auto Op, class Args>
  std::function<void()> call(const Args& args) {
    return [&ops = ops_, args] { (ops.*Op)(args); };
  }
  static double d(std::int64_t x) { return static_cast<double>(x); }
  std::int64_t row_heads() const { return H + 2 * G; }
  GeluKind gelu_kind() const { return model_.mlp == MlpType::gelu_erf ? GeluKind::erf : GeluKind::tanh; }
  /// Whether norms backward sum the bias gradients of the branches before them.
  bool norms_sum_biases() const { return model_.bias && !model_.parallel_block; }
  /// Whether attention backward sums the gradient of the bias of qkv, which QK-norm does not come between.
  bool attention_sums_bias() const { return (model_.bias || model_.qkv_bias) && !model_.qk_norm; }
  /// What attention backward rotates back itself.
  std::optional<Rotation> attention_rotation() const {
    if (model_.position != PositionEncoding::rope || model_.qk_norm) return {};
    return Rotation{.width = model_.rotary_dim, .theta = model_.rope_theta};
  }

  Ops& ops_;
  Config config_;
  ModelConfig model_;
  std::int64_t B, T, N, C, H, G, D, F, V, K, L;
  std::int64_t head_rows_;  // of a chunk of logits
  double passes_;           // micro-batches in a step
  double s_;
  std::vector<std::int32_t> tokens_;
  std::vector<KernelCase> cases_;
};

Cases::Cases(Ops& ops, const Config& config)
    : ops_(ops), config_(config), model_(config.model), B(config.train.micro_batch), T(config.train.sequence_length),
      N(B * T), C(model_.channels), H(model_.heads), G(model_.kv_heads), D(model_.head_dim), F(model_.hidden),
      V(model_.vocab_size), K(std::min(config.probes.positions, T)), L(model_.layers),
      head_rows_(DecoderMemory(model_, decoder_options(config), ops.compute_dtype(), ParameterLayout(model_))
                     .head_rows),
      passes_(d(config.train.gradient_accumulation)), s_(static_cast<double>(size_of(ops.compute_dtype()))),
      tokens_(random_tokens(random_key(3, "bench"), N, V)) {}

std::vector<KernelCase> Cases::all() {
  rows();
  linears();
  heads();
  attention();
  mlp();
  classifier();
  flat();
  probes();
  return std::move(cases_);  // which point back here
}

/// Embedding, norms, residual additions.
void Cases::rows() {
  const bool learned = model_.position == PositionEncoding::learned;
  const double used = d(static_cast<std::int64_t>(std::set<std::int32_t>(tokens_.begin(), tokens_.end()).size()));
  const double positions = learned ? d(T) : 0;
  const double gradients = 8 * d(C) * (used + positions);
  add("embedding backward", passes_, s_ * d(N * C) + gradients + 4 * d(N), 0, [=, this](ArraySet& set) {
    return call<&Ops::embedding_backward>(
        EmbeddingBackward{.dout = set.normal({N, C}),
                          .tokens = set.tokens({B, T}, tokens_),
                          .dwte = set.zeros({V, C}, DType::f32),
                          .dwpe = learned ? set.zeros({T, C}, DType::f32) : Tensor{}});
  });

  const bool layernorm = model_.norm == NormType::layernorm;
  const NormKind kind = layernorm ? NormKind::layernorm : NormKind::rmsnorm;
  const std::string name = layernorm ? "layernorm" : "rmsnorm";
  const double statistics = 4 * d(N) * (layernorm ? 2 : 1);
  const auto forward = [=, this](ArraySet& set, bool residual, bool measured) {
    return NormForward{.kind = kind,
                       .x = set.normal({N, C}),
                       .delta = residual ? set.normal({N, C}) : Tensor{},
                       .sum = residual ? set.zeros({N, C}) : Tensor{},
                       .weight = set.normal({C}),
                       .bias = layernorm ? set.normal({C}) : Tensor{},
                       .out = set.zeros({N, C}),
                       .mean = layernorm ? set.zeros({N}, DType::f32) : Tensor{},
                       .rstd = set.zeros({N}, DType::f32),
                       .l2 = measured ? set.zeros({N}, DType::f32) : Tensor{}};
  };
  const bool probed = config_.probes.enabled;
  add("embedding forward, " + name + (probed ? ", row norms" : ""), passes_,
      s_ * d(C) * (used + positions + 2 * d(N)) + 4 * d(N) + statistics + (probed ? 4 * d(N) : 0), 0,
      [=, this](ArraySet& set) {
        NormForward norm = forward(set, false, probed);
        norm.x = Tensor{};
        return call<&Ops::embedding_forward>(EmbeddingForward{.out = set.zeros({N, C}),
                                                              .tokens = set.tokens({B, T}, tokens_),
                                                              .wte = set.normal({V, C}),
                                                              .wpe = learned ? set.normal({T, C}) : Tensor{},
                                                              .norm = norm});
      });
  const auto add_forward = [&](const std::string& with, bool residual, bool measured, double calls) {
    add(name + " forward" + with, calls, s_ * d(N * C) * (residual ? 4 : 2) + statistics + (measured ? 4 * d(N) : 0), 0,
        [=, this](ArraySet& set) { return call<&Ops::norm_forward>(forward(set, residual, measured)); });
  };
  // The norm before the MLP adds the attention branch; in a parallel block it reads what the first one read, and
  // the branch is added by itself.
  const std::int64_t alone = model_.parallel_block ? L : 0, adding = L - alone;
  add_forward("", false, false, passes_ * d(alone));  // and what is computed again
  add_forward(", residual add", true, false, passes_ * d(probed ? adding : L + adding));
  add_forward(", residual add, row norms", true, true, passes_ * d(probed ? L : 0));
  const auto add_backward = [&](const std::string& with, bool bias_of_branch, double calls) {
    add(name + " backward" + with, calls, 4 * s_ * d(N * C) + statistics + (bias_of_branch ? 8 * d(C) : 0), 0,
        [=, this](ArraySet& set) {
          const NormForward f = forward(set, false, false);
          ops_.norm_forward(f);
          return call<&Ops::norm_backward>(
              NormBackward{.kind = kind, .x = f.x, .dout = set.normal({N, C}), .weight = f.weight, .mean = f.mean,
                           .rstd = f.rstd, .dx = set.zeros({N, C}), .dweight = set.zeros({C}, DType::f32),
                           .dbias = layernorm ? set.zeros({C}, DType::f32) : Tensor{},
                           .dx_sums = bias_of_branch ? set.zeros({C}, DType::f32) : Tensor{}});
        });
  };
  // Every norm but the first stands behind a branch.
  add_backward(", bias of a branch", true, passes_ * d(norms_sum_biases() ? 2 * L : 0));
  add_backward("", false, passes_ * d(norms_sum_biases() ? 1 : 2 * L + 1));
  add("add", passes_ * d(alone), 3 * s_ * d(N * C), 0, [this](ArraySet& set) -> std::function<void()> {
    const Tensor a = set.normal({N, C}), b = set.normal({N, C}), out = set.zeros({N, C});
    return [&ops = ops_, a, b, out] { ops.add(out, a, b); };
  });
}

/// out (rows, O) = x (rows, I) weight^T, and its two gradients apart.
void Cases::linear(const std::string& name, std::int64_t O, std::int64_t I, std::int64_t rows, double calls,
                   const LinearParts& parts) {
  const double flops = 2 * d(rows) * d(O) * d(I), biases = parts.bias ? d(O) : 0, summed = parts.dbias ? d(O) : 0;
  const double operands = s_ * (d(rows * I) + d(O * I) + d(rows * O));
  const bool fp8 = config_.precision == Precision::fp8 && parts.in_block;
  const std::string activation = parts.activation, input_activation = parts.input_activation;
  const bool gelu = activation == "gelu", swiglu = activation == "swiglu", gelu_input = input_activation == "gelu",
             swiglu_input = input_activation == "swiglu";
  const double activated = gelu ? d(rows * O) : swiglu ? d(rows * O) / 2 : 0;
  // Read beside the operands, and written beside dx or instead of it.
  const double before = gelu_input ? d(rows * I) : swiglu_input ? 3 * d(rows * I) : 0;
  grows(add("linear " + name + " forward" + (activation.empty() ? "" : ", " + activation), calls,
            operands + s_ * (biases + activated), flops,
            [=, this](ArraySet& set) {
              return call<&Ops::linear_forward>(LinearForward{.out = set.zeros({rows, O}), .x = set.normal({rows, I}),
                                                              .weight = set.normal({O, I}),
                                                              .bias = parts.bias ? set.normal({O}) : Tensor{},
                                                              .gelu = gelu ? set.zeros({rows, O}) : Tensor{},
                                                              .gelu_kind = gelu_kind(),
                                                              .swiglu = swiglu ? set.zeros({rows, O / 2}) : Tensor{},
                                                              .fp8 = fp8 ? fp8_scales(set) : Fp8Linear{}});
            }),
        rows, s_ * (d(O * I) + biases), fp8);
  const std::string dx =
      (input_activation.empty() ? " dx" : " dx, " + input_activation + " gradient") + (parts.dx_sums ? ", bias" : "");
  grows(add("linear " + name + dx, calls, operands + s_ * before, flops,
            [=, this](ArraySet& set) {
              return call<&Ops::linear_backward>(
                  LinearBackward{.dout = set.normal({rows, O}), .x = {}, .weight = set.normal({O, I}),
                                 .dx = set.zeros({rows, I}), .dweight = {}, .dbias = {},
                                 .gelu_input = gelu_input ? set.normal({rows, I}) : Tensor{}, .gelu_kind = gelu_kind(),
                                 .dx_sums = parts.dx_sums ? set.zeros({I}, DType::f32) : Tensor{},
                                 .swiglu_input = swiglu_input ? set.normal({rows, 2 * I}) : Tensor{},
                                 .dswiglu_input = swiglu_input ? set.zeros({rows, 2 * I}) : Tensor{},
                                 .fp8 = fp8 ? fp8_scales(set) : Fp8Linear{}});
            }),
        rows, s_ * d(O * I), fp8);
  grows(add("linear " + name + (parts.dbias ? " dweight, dbias" : " dweight"), calls,
      s_ * (d(rows * I) + d(rows * O)) + 8 * (d(O * I) + summed), flops, [=, this](ArraySet& set) {
    return call<&Ops::linear_backward>(LinearBackward{.dout = set.normal({rows, O}),
                                                      .x = set.normal({rows, I}),
                                                      .weight = {},
                                                      .dx = {},
                                                      .dweight = set.zeros({O, I}, DType::f32),
                                                      .dbias = parts.dbias ? set.zeros({O}, DType::f32) : Tensor{},
                                                      .fp8 = fp8 ? fp8_scales(set) : Fp8Linear{}});
  }), rows, 8 * (d(O * I) + summed), fp8);
}

void Cases::linears() {
  const double calls = passes_ * d(L);
  const bool gated = model_.mlp == MlpType::swiglu, bias = model_.bias, qkv_bias = bias || model_.qkv_bias;
  const bool own = bias && !norms_sum_biases();  // the branches' outputs go to the residual stream
  linear("qkv", row_heads() * D, C, N, calls, {.bias = qkv_bias, .dbias = qkv_bias && !attention_sums_bias()});
  linear("attention out", C, H * D, N, calls, {.bias = bias, .dbias = own});
  linear(gated ? "gate and up" : "up", gated ? 2 * F : F, C, N, calls,
         {.bias = bias, .dbias = bias && gated, .activation = gated ? "swiglu" : "gelu"});
  linear("down", C, F, N, calls,
         {.bias = bias, .dbias = own, .input_activation = gated ? "swiglu" : "gelu", .dx_sums = bias && !gated});
  linear("head", V, C, head_rows_, passes_ * d(N) / d(head_rows_), {.in_block = false});
}

/// What is done to query and key vectors before attention.
void Cases::heads() {
  const double queries_and_keys = s_ * d(N * (H + G) * D);
  const std::int64_t width = model_.rotary_dim == 0 ? D : model_.rotary_dim;
  const bool rope = model_.position == PositionEncoding::rope;
  const double rotations = rope && !model_.qk_norm ? passes_ * d(L) : 0;  // QK-norm rotates in the same pass
  if (width % 2 == 0)
    add("rope", rotations, 2 * s_ * d(N * (H + G) * width), 0, [this](ArraySet& set) {
      return call<&Ops::rope>(Rope{.qkv = set.normal({B, T, row_heads(), D}),
                                   .heads = static_cast<int>(H + G),
                                   .width = model_.rotary_dim,
                                   .theta = model_.rope_theta,
                                   .inverse = false});
    });
  const double calls = model_.qk_norm ? passes_ * d(L) : 0, statistics = 4 * d(N * (H + G));
  const std::string name = rope ? "qk-norm and rope " : "qk-norm ";
  std::optional<Rotation> rotation;
  if (rope) rotation = Rotation{.width = model_.rotary_dim, .theta = model_.rope_theta};
  const auto forward = [=, this](ArraySet& set) {
    return QkNormForward{.in = set.normal({B, T, row_heads(), D}),
                         .out = set.zeros({B, T, row_heads(), D}),
                         .query_heads = static_cast<int>(H),
                         .kv_heads = static_cast<int>(G),
                         .q_weight = set.normal({D}),
                         .k_weight = set.normal({D}),
                         .rstd = set.zeros({N, H + G}, DType::f32),
                         .rotation = rotation};
  };
  add(name + "forward", calls, 2 * s_ * d(N * row_heads() * D) + statistics, 0,
      [=, this](ArraySet& set) { return call<&Ops::qk_norm_forward>(forward(set)); });
  add(name + "backward", calls, 3 * queries_and_keys + statistics, 0, [=, this](ArraySet& set) {
    const QkNormForward f = forward(set);
    ops_.qk_norm_forward(f);
    return call<&Ops::qk_norm_backward>(QkNormBackward{.in = f.in,
                                                       .dqkv = f.out,
                                                       .query_heads = f.query_heads,
                                                       .kv_heads = f.kv_heads,
                                                       .q_weight = f.q_weight,
                                                       .k_weight = f.k_weight,
                                                       .rstd = f.rstd,
                                                       .dq_weight = set.zeros({D}, DType::f32),
                                                       .dk_weight = set.zeros({D}, DType::f32),
                                                       .rotation = f.rotation});
  });
}

void Cases::attention() {
  const double flops = 2 * d(B * H) * d(T) * d(T) * d(D), qkv = s_ * d(N * row_heads() * D), out = s_ * d(N * H * D);
  const double lse = 4 * d(B * H * T), calls = passes_ * d(L);
  const auto forward = [this](ArraySet& set, bool watched) {
    return AttentionForward{.qkv = set.normal({B, T, row_heads(), D}),
                            .query_heads = static_cast<int>(H),
                            .kv_heads = static_cast<int>(G),
                            .out = set.zeros({B, T, H, D}),
                            .lse = set.zeros({B, H, T}, DType::f32),
                            .sink = watched ? set.zeros({B, H, K}, DType::f32) : Tensor{}};
  };
  for (const bool watched : {true, false}) {
    add(watched ? "attention forward, sink scores of " + std::to_string(K) : "attention forward, no sink scores",
        watched == config_.probes.enabled ? calls : 0, qkv + out + lse + (watched ? 4 * d(B * H * K) : 0), flops,
        [=, this](ArraySet& set) { return call<&Ops::attention_forward>(forward(set, watched)); });
    cases_.back().compared = !watched;
  }
  const auto add_backward = [&](const std::optional<Rotation>& rotation, bool summed, double of_step) {
    const std::string name = std::string("attention backward") + (rotation ? ", rope" : "") + (summed ? ", bias" : "");
    add(name, of_step, 2 * qkv + 2 * out + lse, 2.5 * flops, [=, this](ArraySet& set) {
      const AttentionForward f = forward(set, false);
      ops_.attention_forward(f);
      return call<&Ops::attention_backward>(
          AttentionBackward{.qkv = f.qkv, .query_heads = f.query_heads, .kv_heads = f.kv_heads, .out = f.out,
                            .dout = set.normal({B, T, H, D}), .lse = f.lse, .dqkv = set.zeros({B, T, row_heads(), D}),
                            .dqkv_sums = summed ? set.zeros({row_heads() * D}, DType::f32) : Tensor{},
                            .rotation = rotation});
    });
  };
  const bool more = attention_rotation() || attention_sums_bias();
  if (more) add_backward(attention_rotation(), attention_sums_bias(), calls);
  add_backward({}, false, more ? 0 : calls);
  cases_.back().compared = more;
  if (T < 2) return;
  // The scores once more, out of queries and keys, and nothing else of that size.
  const double statistics = 4 * d(B * H) * (d(T) + d(K) + 5), read = s_ * d(N * (H + G) * D);
  add("attention statistics (probe pass)", 0, read + lse + statistics, 0.5 * flops, [=, this](ArraySet& set) {
    const AttentionForward f = forward(set, true);
    ops_.attention_forward(f);
    const auto per_head = [&] { return set.zeros({B, H}, DType::f32); };
    return call<&Ops::attention_statistics>(AttentionStatistics{.qkv = f.qkv,
                                                                .query_heads = f.query_heads,
                                                                .kv_heads = f.kv_heads,
                                                                .lse = f.lse,
                                                                .sink = f.sink,
                                                                .first_mass = per_head(),
                                                                .first_argmax = per_head(),
                                                                .entropy = per_head(),
                                                                .key_mass = set.zeros({B, H, T}, DType::f32),
                                                                .cos_first = per_head(),
                                                                .cos_rest = per_head()});
  });
}

void Cases::mlp() {
  const double hidden = s_ * d(N * F);
  const GeluKind kind = gelu_kind();
  add("gelu forward (apart)", 0, 2 * hidden, 0, [=, this](ArraySet& set) {
    return call<&Ops::gelu_forward>(GeluForward{.kind = kind, .x = set.normal({N, F}), .out = set.zeros({N, F})});
  });
  add("gelu backward (apart)", 0, 3 * hidden, 0, [=, this](ArraySet& set) {
    return call<&Ops::gelu_backward>(
        GeluBackward{.kind = kind, .x = set.normal({N, F}), .dout = set.normal({N, F}), .dx = set.zeros({N, F})});
  });
  add("swiglu forward (apart)", 0, 3 * hidden, 0, [this](ArraySet& set) {
    return call<&Ops::swiglu_forward>(SwigluForward{.gate_up = set.normal({N, 2 * F}), .out = set.zeros({N, F})});
  });
  add("swiglu backward (apart)", 0, 5 * hidden, 0, [this](ArraySet& set) {
    return call<&Ops::swiglu_backward>(SwigluBackward{
        .gate_up = set.normal({N, 2 * F}), .dout = set.normal({N, F}), .dgate_up = set.zeros({N, 2 * F})});
  });
}

void Cases::classifier() {
  const std::int64_t rows = head_rows_;
  const double calls = passes_ * d(N) / d(rows);
  const auto args = [=, this](ArraySet& set, bool gradient) {
    return CrossEntropy{.logits = set.normal({rows, V}),
                        .targets = set.tokens({rows}, tokens_),
                        .losses = set.zeros({rows}, DType::f32),
                        .gradient = gradient,
                        .scale = 1.0F / static_cast<float>(N)};
  };
  grows(add("cross-entropy, gradient", calls, 2 * s_ * d(rows * V) + 8 * d(rows), 0,
            [=, this](ArraySet& set) { return call<&Ops::cross_entropy>(args(set, true)); }), rows, 0);
  grows(add("cross-entropy (evaluation)", 0, s_ * d(rows * V) + 8 * d(rows), 0,
            [=, this](ArraySet& set) { return call<&Ops::cross_entropy>(args(set, false)); }), rows, 0);
}

/// Flat arrays of all parameters.
void Cases::flat() {
  const auto layout = std::make_shared<ParameterLayout>(model_);
  const auto segments = std::make_shared<const std::vector<Segment>>(layout->segments());
  const std::int64_t P = layout->flat_size(), S = static_cast<std::int64_t>(segments->size());
  const bool has_master = ops_.compute_dtype() != DType::f32;
  add("zero residual gradient", passes_, s_ * d(N * C), 0, [this](ArraySet& set) -> std::function<void()> {
    const Tensor x = set.zeros({N, C});
    return [&ops = ops_, x] { ops.zero(x); };
  });
  add("sum of squares", 1, 4 * d(P), 0, [=, this](ArraySet& set) -> std::function<void()> {
    const Tensor x = set.normal({P}, DType::f32), sums = set.zeros({S}, DType::f64);
    return [&ops = ops_, segments, x, sums] { ops.sum_of_squares({.x = x, .segments = *segments, .sums = sums}); };
  });
  add("clip scale", 1, 8 * d(S) + 8, 0, [=, this](ArraySet& set) {
    return call<&Ops::clip_scale>(
        ClipScale{.sums = set.zeros({S}, DType::f64), .max_norm = 1, .out = set.zeros({2}, DType::f32)});
  });
  add("adamw", 1, d(P) * (28 + (has_master ? s_ : 0)), 0, [=, this](ArraySet& set) -> std::function<void()> {
    const AdamwStep args{.param = set.normal({P}, DType::f32),
                         .grad = set.normal({P}, DType::f32),
                         .compute = has_master ? set.zeros({P}) : Tensor{},
                         .m = set.zeros({P}, DType::f32),
                         .v = set.zeros({P}, DType::f32),
                         .segments = *segments,
                         .clip = set.zeros({2}, DType::f32),
                         .lr = 1e-4};
    const float clip[2] = {1.0F, 1.0F};
    ops_.copy_from_host(args.clip, clip);
    return [&ops = ops_, segments, args] { ops.adamw_step(args); };
  });
  add("convert to real (after a load)", 0, d(P) * (4 + s_), 0, [=, this](ArraySet& set) -> std::function<void()> {
    const Tensor from = set.normal({P}, DType::f32), to = set.zeros({P});
    return [&ops = ops_, from, to] { ops.convert(to, from); };
  });
}

void Cases::probes() {
  const double watched = config_.probes.enabled ? passes_ : 0;
  add("sink sums", watched, 4 * d(L * B * H * K) + 32 * d(L * H * K), 0, [=, this](ArraySet& set) {
    return call<&Ops::sink_sums>(SinkSums{.sink = set.zeros({L, B, H, K}, DType::f32),
                                          .threshold = 0.3F,
                                          .scores = set.zeros({L, H, K}, DType::f64),
                                          .above = set.zeros({L, H, K}, DType::f64)});
  });
  if (T > 1)
    add("norm sums", watched, 4 * d((L + 1) * N) + 16 * d((L + 1) * (K + 2)), 0, [=, this](ArraySet& set) {
      return call<&Ops::norm_sums>(NormSums{.norms = set.zeros({L + 1, B, T}, DType::f32),
                                            .first = set.zeros({L + 1, K}, DType::f64),
                                            .rest = set.zeros({L + 1}, DType::f64),
                                            .ratio = set.zeros({L + 1}, DType::f64)});
    });
  // What a probe pass asks for each layer, here of a whole micro-batch.
  add("row norms (probe pass)", 0, s_ * d(N * C) + 4 * d(N), 0, [this](ArraySet& set) {
    return call<&Ops::row_l2>(RowL2{.x = set.normal({N, 1, C}), .out = set.zeros({1, N}, DType::f32)});
  });
  add("key and value norms (probe pass)", 0, (s_ * d(D) + 4) * d(2 * G * N), 0, [this](ArraySet& set) {
    return call<&Ops::row_l2>(RowL2{.x = set.normal({N, row_heads(), D}),
                                    .first = static_cast<int>(H),
                                    .out = set.zeros({2 * G, N}, DType::f32)});
  });
  add("direction sums (probe pass)", 0, s_ * d(B * C) + 16 * d(C + 1), 0, [this](ArraySet& set) {
    return call<&Ops::direction_sums>(DirectionSums{.x = set.normal({B, T, C}),
                                                    .position = T / 2,
                                                    .sum = set.zeros({C}, DType::f64),
                                                    .count = set.zeros({1}, DType::f64)});
  });
  add("abs statistics (probe pass)", 0, s_ * d(N * C), 0, [this](ArraySet& set) {
    return call<&Ops::abs_statistics>(AbsStatistics{.x = set.normal({N, C}), .out = set.zeros({4}, DType::f64)});
  });
}

}  // namespace

std::vector<KernelCase> kernel_cases(Ops& ops, const Config& config) {
  return std::make_shared<Cases>(ops, config)->all();
}

std::vector<double> time_in_turns(Ops& ops, RandomSource& source, std::span<const KernelCase> kernels, int repeats) {
  struct Timing {
    std::vector<ArraySet> sets;
    std::vector<std::function<void()>> calls;
    int window = 0, windows = 0;
    std::size_t next = 0;
    std::vector<double> times;
  };
  std::vector<Timing> timings(kernels.size());
  int rounds = 0;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    Timing& t = timings[i];
    do {
      t.calls.push_back(kernels[i].make(t.sets.emplace_back(ops, source)));
      t.calls.back()();  // plans are made, pages touched
    } while (t.sets.size() < kMostSets && (t.sets.size() + 1) * t.sets.front().bytes() <= kRoundBytes);
    ops.synchronize();
    const double once = std::max(ops.time_ms(t.calls.front()), 1e-4);
    t.window = static_cast<int>(std::clamp(std::ceil(kWindowMs / once), 1.0, 256.0));
    t.windows = std::min(repeats, static_cast<int>(std::clamp(kPatienceMs / once, 3.0, 1e6)));
    rounds = std::max(rounds, t.windows);
  }
  for (int round = 0; round < rounds; ++round)
    for (Timing& t : timings) {
      if (round >= t.windows) continue;
      t.times.push_back(ops.time_ms([&] {
                          for (int n = 0; n < t.window; ++n) t.calls[t.next++ % t.calls.size()]();
                        }) / t.window);
    }
  std::vector<double> medians;
  for (Timing& t : timings) medians.push_back(median(std::move(t.times)));
  return medians;
}

}  // namespace sinkscope
