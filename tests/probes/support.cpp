#include "tests/probes/support.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "engine/model/random.h"
#include "tests/model/reference_decoder.h"

namespace sinkscope::test {

namespace {

using Row = std::span<const double>;

double dot(Row a, Row b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
double norm(Row a) { return std::sqrt(dot(a, a)); }
double cosine(Row a, Row b) { return dot(a, b) / (norm(a) * norm(b)); }

/// Mean of value(i) over i in [begin, end).
template <class Value>
double mean(std::int64_t begin, std::int64_t end, Value value) {
  double sum = 0;
  for (std::int64_t i = begin; i < end; ++i) sum += value(i);
  return sum / static_cast<double>(end - begin);
}

/// The largest value's place, the first of equals.
template <class Value>
std::int64_t largest(std::int64_t count, Value value) {
  std::int64_t best = 0;
  for (std::int64_t i = 1; i < count; ++i)
    if (value(i) > value(best)) best = i;
  return best;
}

}  // namespace

std::vector<ModelConfig> small_models() {
  ModelConfig llama;
  llama.layers = 3;
  llama.channels = 24;
  llama.heads = 4;
  llama.kv_heads = 2;
  llama.head_dim = 6;
  llama.hidden = 40;
  llama.vocab_size = 31;
  llama.max_sequence_length = 20;
  ModelConfig gpt2 = llama;
  gpt2.preset = ModelPreset::gpt2;
  gpt2.kv_heads = 4;
  gpt2.norm = NormType::layernorm;
  gpt2.position = PositionEncoding::learned;
  gpt2.mlp = MlpType::gelu;
  gpt2.bias = true;
  gpt2.tied_embedding = true;
  gpt2.init = InitScheme::gpt2;
  ModelConfig qwen3 = llama;
  qwen3.preset = ModelPreset::qwen3;
  qwen3.kv_heads = 1;
  qwen3.head_dim = 8;
  qwen3.qk_norm = true;
  qwen3.tied_embedding = true;
  ModelConfig off_by_one = gpt2, learned = llama;
  off_by_one.attention.sink = AttentionSink::off_by_one;
  learned.attention.sink = AttentionSink::learned;
  return {llama, gpt2, qwen3, off_by_one, learned};
}

std::vector<float> strong_parameters(const ParameterLayout& layout, std::uint64_t seed) {
  std::vector<float> flat(at(layout.flat_size()));
  initialize_parameters(layout, seed, flat);
  for (const ParameterSpec& spec : layout.specs())
    for (std::int64_t i = 0; i < spec.size; ++i) {
      float& value = flat[at(spec.offset + i)];
      if (spec.shape.size() == 2)
        value *= 15.0F;
      else
        value += 0.2F * static_cast<float>(random_normal(random_key(seed, spec.name + " shifted"), at(i)));
    }
  return flat;
}

ProbeRecord expected_record(const ModelConfig& model, const ParameterLayout& layout, std::span<const float> parameters,
                            const ProbeConfig& config, const ProbeSet& set, double& margin) {
  const std::int64_t L = model.layers, H = model.heads, G = model.kv_heads, D = model.head_dim, C = model.channels;
  const std::int64_t B = set.sequences, T = set.length, K = config.positions;
  const std::vector<double> flat(parameters.begin(), parameters.end());
  const reference::Activations run = reference::forward(model, layout, flat, B, T, set.inputs);
  const auto A = [&](std::int64_t l, std::int64_t b, std::int64_t h, std::int64_t t, std::int64_t k) {
    return run.layers[at(l)].attention[at(((b * H + h) * T + t) * T + k)];
  };
  const auto row = [&](const std::vector<double>& x, std::int64_t b, std::int64_t t) {
    return Row(x).subspan(at((b * T + t) * C), at(C));
  };
  const auto head = [&](std::int64_t l, std::int64_t b, std::int64_t t, std::int64_t place) {
    return Row(run.layers[at(l)].qkv).subspan(at(((b * T + t) * (H + 2 * G) + place) * D), at(D));
  };
  const auto alpha = [&](std::int64_t l, std::int64_t b, std::int64_t h, std::int64_t k) {
    return mean(k, T, [&](std::int64_t t) { return A(l, b, h, t, k); });
  };

  ProbeRecord out;
  out.set = set.name;
  out.length = T;
  out.sequences = B;
  out.with_bos = set.with_bos;
  out.loss = reference::loss(model, run, set.targets).mean();
  out.layers = L;
  out.heads = H;
  out.kv_heads = G;
  out.positions = K;

  // Section 1.
  const auto rate = [&](std::int64_t first_layer, std::int64_t last_layer, std::int64_t k) {
    return mean(first_layer, last_layer, [&](std::int64_t l) {
      return mean(0, B, [&](std::int64_t b) {
        return mean(0, H, [&](std::int64_t h) { return alpha(l, b, h, k) > config.sink_threshold ? 1.0 : 0.0; });
      });
    });
  };
  const auto score = [&](std::int64_t l, std::int64_t h, std::int64_t k) {
    return mean(0, B, [&](std::int64_t b) { return alpha(l, b, h, k); });
  };
  const auto layer_score = [&](std::int64_t l, std::int64_t k) {
    return mean(0, H, [&](std::int64_t h) { return score(l, h, k); });
  };
  const auto model_score = [&](std::int64_t k) {
    return mean(0, L, [&](std::int64_t l) { return layer_score(l, k); });
  };
  margin = std::numeric_limits<double>::infinity();
  for (std::int64_t l = 0; l < L; ++l) {
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t k = 0; k < K; ++k) {
        out.sink_score.push_back(score(l, h, k));
        for (std::int64_t b = 0; b < B; ++b)
          margin = std::min(margin, std::abs(alpha(l, b, h, k) - config.sink_threshold));
      }
      const auto over_queries = [&](std::int64_t first, auto value) {
        return mean(0, B, [&](std::int64_t b) { return mean(first, T, [&](std::int64_t t) { return value(b, t); }); });
      };
      out.first_token_mass.push_back(over_queries(1, [&](std::int64_t b, std::int64_t t) { return A(l, b, h, t, 0); }));
      out.first_token_argmax.push_back(over_queries(1, [&](std::int64_t b, std::int64_t t) {
        return largest(t + 1, [&](std::int64_t k) { return A(l, b, h, t, k); }) == 0 ? 1.0 : 0.0;
      }));
      out.entropy.push_back(over_queries(0, [&](std::int64_t b, std::int64_t t) {
        double sum = 0;
        for (std::int64_t k = 0; k <= t; ++k)
          if (A(l, b, h, t, k) > 0) sum -= A(l, b, h, t, k) * std::log(A(l, b, h, t, k));
        return sum;
      }));
      const std::int64_t key = H + h / (H / G);
      out.cosine_first.push_back(over_queries(
          1, [&](std::int64_t b, std::int64_t t) { return cosine(head(l, b, t, h), head(l, b, 0, key)); }));
      out.cosine_rest.push_back(mean(0, B, [&](std::int64_t b) {
        double sum = 0;
        std::int64_t pairs = 0;
        for (std::int64_t t = 1; t < T; ++t)
          for (std::int64_t j = 1; j <= t; ++j, ++pairs) sum += cosine(head(l, b, t, h), head(l, b, j, key));
        return sum / static_cast<double>(pairs);
      }));
    }
    for (std::int64_t k = 0; k < T; ++k)
      out.key_mass.push_back(mean(0, B, [&](std::int64_t b) {
        return mean(0, H, [&](std::int64_t h) {
          double sum = 0;
          for (std::int64_t t = k; t < T; ++t) sum += A(l, b, h, t, k);
          return sum;
        });
      }));
    if (model.attention.sink != AttentionSink::none)
      out.sink_logit_mass.push_back(1 - mean(0, B, [&](std::int64_t b) {
        return mean(0, H, [&](std::int64_t h) {
          return mean(0, T, [&](std::int64_t t) {
            double on_keys = 0;
            for (std::int64_t k = 0; k <= t; ++k) on_keys += A(l, b, h, t, k);
            return on_keys;
          });
        });
      }));
    for (std::int64_t k = 0; k < K; ++k) out.sink_rate_layer.push_back(rate(l, l + 1, k));
    out.dominant_position_layer.push_back(largest(K, [&](std::int64_t k) { return layer_score(l, k); }));
  }
  for (std::int64_t k = 0; k < K; ++k) {
    out.sink_rate.push_back(rate(0, L, k));
    out.sink_rate_from.push_back(rate(config.from_layer, L, k));
    const double uniform = mean(k, T, [](std::int64_t t) { return 1.0 / static_cast<double>(t + 1); });
    out.sink_excess.push_back(model_score(k) / uniform);
  }
  out.dominant_position = largest(K, model_score);

  // Section 2.
  const auto norms_of = [&](const std::vector<double>& x, std::vector<double>& first, std::vector<double>& rest) {
    for (std::int64_t p = 0; p < K; ++p)
      first.push_back(mean(0, B, [&](std::int64_t b) { return norm(row(x, b, p)); }));
    rest.push_back(
        mean(0, B, [&](std::int64_t b) { return mean(K, T, [&](std::int64_t t) { return norm(row(x, b, t)); }); }));
  };
  for (std::int64_t l = 0; l <= L; ++l) {
    const std::vector<double>& h = run.residual(l);
    norms_of(h, out.residual_norm, out.residual_norm_rest);
    out.norm_ratio.push_back(mean(0, B, [&](std::int64_t b) {
      return norm(row(h, b, 0)) / mean(1, T, [&](std::int64_t t) { return norm(row(h, b, t)); });
    }));
  }
  for (std::int64_t l = 0; l < L; ++l) {
    const reference::Layer& layer = run.layers[at(l)];
    norms_of(layer.attention_output, out.attention_output_norm, out.attention_output_norm_rest);
    norms_of(layer.mlp_output, out.mlp_output_norm, out.mlp_output_norm_rest);
    const auto gain = [&](std::int64_t b, std::int64_t t) {
      std::vector<double> sum(at(C));
      for (std::int64_t c = 0; c < C; ++c)
        sum[at(c)] = row(layer.middle, b, t)[at(c)] + row(layer.mlp_output, b, t)[at(c)];
      return norm(sum) / norm(row(layer.middle, b, t));
    };
    out.mlp_amplification.push_back(mean(0, B, [&](std::int64_t b) {
      return gain(b, 0) / mean(1, T, [&](std::int64_t t) { return gain(b, t); });
    }));
    for (std::int64_t g = 0; g < G; ++g) {
      const auto first = [&](std::int64_t place) {
        return mean(0, B, [&](std::int64_t b) { return norm(head(l, b, 0, place)); });
      };
      const auto rest = [&](std::int64_t place) {
        return mean(0, B, [&](std::int64_t b) {
          return mean(1, T, [&](std::int64_t t) { return norm(head(l, b, t, place)); });
        });
      };
      out.key_norm_first.push_back(first(H + g));
      out.key_norm_rest.push_back(rest(H + g));
      out.value_norm_first.push_back(first(H + G + g));
      out.value_norm_rest.push_back(rest(H + G + g));
    }
    std::vector<double> magnitudes;
    for (const double x : layer.output) magnitudes.push_back(std::abs(x));
    const auto top = std::max_element(magnitudes.begin(), magnitudes.end()) - magnitudes.begin();
    const double highest = magnitudes[at(top)];
    std::sort(magnitudes.begin(), magnitudes.end());
    out.massive_ratio.push_back(highest / magnitudes[(magnitudes.size() - 1) / 2]);
    out.massive_position.push_back(top / C % T);
    out.massive_channel.push_back(top % C);
    const auto stability = [&](std::int64_t t) {
      double sum = 0;
      for (std::int64_t a = 0; a < B; ++a)
        for (std::int64_t b = 0; b < a; ++b) sum += cosine(row(layer.output, a, t), row(layer.output, b, t));
      return sum / (static_cast<double>(B * (B - 1)) / 2);
    };
    out.direction_stability.push_back(stability(0));
    out.direction_stability_middle.push_back(stability(T / 2));
  }

  // Section 3.
  const auto R = [&](std::int64_t l) { return std::log(out.norm_ratio[at(l + 1)]); };
  const double highest = R(largest(L, R));
  if (highest > std::log(2.0)) {
    out.step_up_layer = largest(L, [&](std::int64_t l) { return R(l) - R(l - 1); });
    out.concentration = std::max({R(0), R(1), 0.0}) / highest;
  }
  return out;
}

MemoryStream random_stream(std::int64_t tokens, std::int64_t vocab, std::int32_t eos_id) {
  const std::uint64_t key = random_key(5, "stream");
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i < tokens; ++i) {
    const auto token = static_cast<std::int32_t>(random_bits(key, at(i)) % static_cast<std::uint64_t>(vocab));
    out.push_back(i % 37 == 36 ? eos_id : token);
  }
  return MemoryStream(std::move(out));
}

}  // namespace sinkscope::test
