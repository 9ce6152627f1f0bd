#include "tests/kernels/reference_ops.h"

#include <algorithm>

namespace sinkscope::test {
namespace {

// Plain indexing without a cast at every place.
class Matrix {
 public:
  Matrix(Doubles& values, std::int64_t columns) : values_(values), columns_(columns) {}
  double& operator()(std::int64_t row, std::int64_t column) {
    return values_.at(static_cast<std::size_t>(row * columns_ + column));
  }

 private:
  Doubles& values_;
  std::int64_t columns_;
};

double at(const Doubles& values, std::int64_t i) { return values.at(static_cast<std::size_t>(i)); }
double& at(Doubles& values, std::int64_t i) { return values.at(static_cast<std::size_t>(i)); }
std::int64_t count(const Doubles& values) { return static_cast<std::int64_t>(values.size()); }
Doubles zeros(std::int64_t size) { return Doubles(static_cast<std::size_t>(size), 0.0); }

double dot_at(const Doubles& a, std::int64_t i, const Doubles& b, std::int64_t j, std::int64_t size) {
  double sum = 0;
  for (std::int64_t d = 0; d < size; ++d) sum += at(a, i + d) * at(b, j + d);
  return sum;
}

double gelu_slope(GeluKind kind, double x) {
  if (kind == GeluKind::erf)
    return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * 3.14159265358979323846);
  const double factor = std::sqrt(2.0 / 3.14159265358979323846);
  const double t = std::tanh(factor * (x + 0.044715 * x * x * x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * factor * (1.0 + 3 * 0.044715 * x * x);
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

Doubles embedding_forward(const Tokens& tokens, const Doubles& wte, const Doubles& wpe, std::int64_t length,
                          std::int64_t channels) {
  Doubles out;
  for (std::size_t n = 0; n < tokens.size(); ++n)
    for (std::int64_t c = 0; c < channels; ++c)
      out.push_back(at(wte, tokens[n] * channels + c) +
                    (wpe.empty() ? 0.0 : at(wpe, static_cast<std::int64_t>(n) % length * channels + c)));
  return out;
}

EmbeddingGradients embedding_backward(const Tokens& tokens, const Doubles& dout, std::int64_t vocabulary,
                                      std::int64_t positions, std::int64_t length, std::int64_t channels) {
  EmbeddingGradients out{zeros(vocabulary * channels), zeros(positions * channels)};
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto n = static_cast<std::int64_t>(i);
    for (std::int64_t c = 0; c < channels; ++c) {
      at(out.dwte, tokens[i] * channels + c) += at(dout, n * channels + c);
      if (positions > 0) at(out.dwpe, n % length * channels + c) += at(dout, n * channels + c);
    }
  }
  return out;
}

NormOut norm_forward(NormKind kind, const Doubles& x, const Doubles& weight, const Doubles& bias, double eps) {
  const std::int64_t channels = count(weight);
  NormOut result{zeros(count(x)), {}, {}, {}};
  for (std::int64_t n = 0; n < count(x) / channels; ++n) {
    double mean = 0;
    double squares = 0;
    double variance = 0;
    for (std::int64_t c = 0; c < channels; ++c) {
      mean += at(x, n * channels + c) / static_cast<double>(channels);
      squares += at(x, n * channels + c) * at(x, n * channels + c);
    }
    if (kind == NormKind::rmsnorm) mean = 0;
    for (std::int64_t c = 0; c < channels; ++c)
      variance += std::pow(at(x, n * channels + c) - mean, 2) / static_cast<double>(channels);
    const double rstd = 1.0 / std::sqrt(variance + eps);
    for (std::int64_t c = 0; c < channels; ++c)
      at(result.out, n * channels + c) =
          (at(x, n * channels + c) - mean) * rstd * at(weight, c) + (bias.empty() ? 0.0 : at(bias, c));
    result.mean.push_back(mean);
    result.rstd.push_back(rstd);
    result.l2.push_back(std::sqrt(squares));
  }
  return result;
}

NormGradients norm_backward(NormKind kind, const Doubles& x, const Doubles& weight, const Doubles& dout, double eps) {
  const std::int64_t channels = count(weight);
  const NormOut forward = norm_forward(kind, x, weight, {}, eps);
  NormGradients result{zeros(count(x)), zeros(channels), zeros(channels)};
  for (std::int64_t n = 0; n < count(x) / channels; ++n) {
    const double rstd = at(forward.rstd, n);
    double sum = 0;
    double projection = 0;
    const auto xhat = [&](std::int64_t c) { return (at(x, n * channels + c) - at(forward.mean, n)) * rstd; };
    for (std::int64_t c = 0; c < channels; ++c) {
      const double d = at(dout, n * channels + c);
      at(result.dweight, c) += d * xhat(c);
      at(result.dbias, c) += d;
      sum += d * at(weight, c) / static_cast<double>(channels);
      projection += d * at(weight, c) * xhat(c) / static_cast<double>(channels);
    }
    if (kind == NormKind::rmsnorm) sum = 0;
    for (std::int64_t c = 0; c < channels; ++c)
      at(result.dx, n * channels + c) =
          rstd * (at(dout, n * channels + c) * at(weight, c) - sum - xhat(c) * projection);
  }
  return result;
}

Doubles linear_forward(const Doubles& x, const Doubles& weight, const Doubles& bias, std::int64_t inputs,
                       std::int64_t outputs) {
  Doubles out;
  for (std::int64_t n = 0; n < count(x) / inputs; ++n)
    for (std::int64_t o = 0; o < outputs; ++o)
      out.push_back(dot_at(x, n * inputs, weight, o * inputs, inputs) + (bias.empty() ? 0.0 : at(bias, o)));
  return out;
}

LinearGradients linear_backward(const Doubles& x, const Doubles& weight, const Doubles& dout, std::int64_t inputs,
                                std::int64_t outputs) {
  LinearGradients out{zeros(count(x)), zeros(count(weight)), zeros(outputs)};
  for (std::int64_t n = 0; n < count(x) / inputs; ++n)
    for (std::int64_t o = 0; o < outputs; ++o) {
      const double d = at(dout, n * outputs + o);
      at(out.dbias, o) += d;
      for (std::int64_t i = 0; i < inputs; ++i) {
        at(out.dx, n * inputs + i) += d * at(weight, o * inputs + i);
        at(out.dweight, o * inputs + i) += d * at(x, n * inputs + i);
      }
    }
  return out;
}

Doubles rope(const Heads& heads, Doubles qkv, std::int64_t rotated, std::int64_t width, double theta, bool inverse,
             std::int64_t first_index) {
  const std::int64_t half = width / 2;
  for (std::int64_t b = 0; b < heads.sequences; ++b)
    for (std::int64_t t = 0; t < heads.length; ++t)
      for (std::int64_t h = 0; h < rotated; ++h)
        for (std::int64_t d = 0; d < half; ++d) {
          const double angle = (inverse ? -1.0 : 1.0) * static_cast<double>(t == 0 ? first_index : t) *
                               std::pow(theta, -2.0 * static_cast<double>(d) / static_cast<double>(width));
          double& low = at(qkv, heads.at(b, t, h) + d);
          double& high = at(qkv, heads.at(b, t, h) + d + half);
          const double first = low;
          low = first * std::cos(angle) - high * std::sin(angle);
          high = high * std::cos(angle) + first * std::sin(angle);
        }
  return qkv;
}

QkNormOut qk_norm_forward(const Heads& heads, const Doubles& in, const Doubles& q_weight, const Doubles& k_weight,
                          double eps) {
  QkNormOut result{in, {}};
  for (std::int64_t n = 0; n < heads.rows(); ++n)
    for (std::int64_t h = 0; h < heads.normed_heads(); ++h) {
      const std::int64_t from = (n * heads.row_heads() + h) * heads.head_dim;
      const double squares = dot_at(in, from, in, from, heads.head_dim);
      const double rstd = 1.0 / std::sqrt(squares / static_cast<double>(heads.head_dim) + eps);
      result.rstd.push_back(rstd);
      for (std::int64_t d = 0; d < heads.head_dim; ++d)
        at(result.out, from + d) *= rstd * at(h < heads.query_heads ? q_weight : k_weight, d);
    }
  return result;
}

QkNormGradients qk_norm_backward(const Heads& heads, const Doubles& in, const Doubles& q_weight,
                                 const Doubles& k_weight, const Doubles& dout, double eps) {
  QkNormGradients result{dout, zeros(heads.head_dim), zeros(heads.head_dim)};
  for (std::int64_t n = 0; n < heads.rows(); ++n)
    for (std::int64_t h = 0; h < heads.normed_heads(); ++h) {
      const bool query = h < heads.query_heads;
      const std::int64_t from = (n * heads.row_heads() + h) * heads.head_dim;
      const auto slice = [&](const Doubles& values) {
        return Doubles(values.begin() + from, values.begin() + from + heads.head_dim);
      };
      const NormGradients one =
          norm_backward(NormKind::rmsnorm, slice(in), query ? q_weight : k_weight, slice(dout), eps);
      std::copy(one.dx.begin(), one.dx.end(), result.din.begin() + from);
      Doubles& dweight = query ? result.dq_weight : result.dk_weight;
      dweight = plus(dweight, one.dweight);
    }
  return result;
}

AttentionOut attention_forward(const Heads& heads, const Doubles& qkv, std::int64_t isolated,
                               const Doubles& sink_logits) {
  const std::int64_t length = heads.length;
  const double scale = 1.0 / std::sqrt(static_cast<double>(heads.head_dim));
  AttentionOut result{zeros(heads.out_size()), {}, zeros(heads.sequences * heads.query_heads * length * length)};
  Matrix weights(result.weights, length);
  for (std::int64_t b = 0; b < heads.sequences; ++b)
    for (std::int64_t h = 0; h < heads.query_heads; ++h) {
      const std::int64_t g = h / (heads.query_heads / heads.kv_heads);
      for (std::int64_t t = 0; t < length; ++t) {
        const std::int64_t row = (b * heads.query_heads + h) * length + t;
        const std::int64_t first = t == isolated ? t : 0;
        const double logit = sink_logits.empty() ? -std::numeric_limits<double>::infinity() : at(sink_logits, h);
        double highest = logit;
        for (std::int64_t k = first; k <= t; ++k) {
          weights(row, k) = scale * dot_at(qkv, heads.at(b, t, h), qkv, heads.at(b, k, heads.query_heads + g),
                                           heads.head_dim);
          highest = std::max(highest, weights(row, k));
        }
        double sum = std::exp(logit - highest);
        for (std::int64_t k = first; k <= t; ++k) sum += std::exp(weights(row, k) - highest);
        const double lse = highest + std::log(sum);
        result.lse.push_back(lse);
        for (std::int64_t k = first; k <= t; ++k) {
          weights(row, k) = std::exp(weights(row, k) - lse);
          const std::int64_t value = heads.at(b, k, heads.query_heads + heads.kv_heads + g);
          const std::int64_t out = ((b * length + t) * heads.query_heads + h) * heads.head_dim;
          for (std::int64_t d = 0; d < heads.head_dim; ++d)
            at(result.out, out + d) += weights(row, k) * at(qkv, value + d);
        }
      }
    }
  return result;
}

AttentionGradients attention_backward(const Heads& heads, const Doubles& qkv, const Doubles& dout,
                                      const Doubles& sink_logits) {
  const std::int64_t length = heads.length;
  const double scale = 1.0 / std::sqrt(static_cast<double>(heads.head_dim));
  AttentionOut forward = attention_forward(heads, qkv, -1, sink_logits);
  Matrix weights(forward.weights, length);
  Doubles dqkv = zeros(heads.size()), dsink_logits = zeros(count(sink_logits));
  for (std::int64_t b = 0; b < heads.sequences; ++b)
    for (std::int64_t h = 0; h < heads.query_heads; ++h) {
      const std::int64_t g = h / (heads.query_heads / heads.kv_heads);
      for (std::int64_t t = 0; t < length; ++t) {
        const std::int64_t row = (b * heads.query_heads + h) * length + t;
        const std::int64_t out = ((b * length + t) * heads.query_heads + h) * heads.head_dim;
        const std::int64_t query = heads.at(b, t, h);
        Doubles dweight = zeros(t + 1);
        double mean = 0;
        for (std::int64_t k = 0; k <= t; ++k) {
          const std::int64_t value = heads.at(b, k, heads.query_heads + heads.kv_heads + g);
          at(dweight, k) = dot_at(dout, out, qkv, value, heads.head_dim);
          mean += weights(row, k) * at(dweight, k);
          for (std::int64_t d = 0; d < heads.head_dim; ++d)
            at(dqkv, value + d) += weights(row, k) * at(dout, out + d);
        }
        // The sink logit's own dweight is 0, since it has no value.
        if (!sink_logits.empty())
          at(dsink_logits, h) += std::exp(at(sink_logits, h) - at(forward.lse, row)) * (0 - mean);
        for (std::int64_t k = 0; k <= t; ++k) {
          const double dscore = scale * weights(row, k) * (at(dweight, k) - mean);
          const std::int64_t key = heads.at(b, k, heads.query_heads + g);
          for (std::int64_t d = 0; d < heads.head_dim; ++d) {
            at(dqkv, query + d) += dscore * at(qkv, key + d);
            at(dqkv, key + d) += dscore * at(qkv, query + d);
          }
        }
      }
    }
  return {dqkv, dsink_logits};
}

Doubles sink_scores(const Heads& heads, const Doubles& weights, std::int64_t watched) {
  Doubles out;
  for (std::int64_t bh = 0; bh < heads.sequences * heads.query_heads; ++bh)
    for (std::int64_t k = 0; k < watched; ++k) {
      double sum = 0;
      for (std::int64_t t = k; t < heads.length; ++t) sum += at(weights, (bh * heads.length + t) * heads.length + k);
      out.push_back(sum / static_cast<double>(heads.length - k));
    }
  return out;
}

AttentionSummary attention_statistics(const Heads& heads, const Doubles& qkv, const Doubles& weights) {
  const std::int64_t length = heads.length;
  AttentionSummary result;
  for (std::int64_t bh = 0; bh < heads.sequences * heads.query_heads; ++bh) {
    const std::int64_t b = bh / heads.query_heads;
    const std::int64_t h = bh % heads.query_heads;
    const std::int64_t key_head = heads.query_heads + h / (heads.query_heads / heads.kv_heads);
    const auto weight = [&](std::int64_t t, std::int64_t k) { return at(weights, (bh * length + t) * length + k); };
    const auto cosine = [&](std::int64_t t, std::int64_t k) {
      const std::int64_t q = heads.at(b, t, h);
      const std::int64_t j = heads.at(b, k, key_head);
      return dot_at(qkv, q, qkv, j, heads.head_dim) /
             std::sqrt(dot_at(qkv, q, qkv, q, heads.head_dim) * dot_at(qkv, j, qkv, j, heads.head_dim));
    };
    const auto later = static_cast<double>(length - 1);
    double mass = 0, argmax = 0, entropy = 0, first = 0, rest = 0, pairs = 0;
    for (std::int64_t t = 0; t < length; ++t) {
      bool leads = true;
      for (std::int64_t k = 0; k <= t; ++k) {
        entropy -= weight(t, k) > 0 ? weight(t, k) * std::log(weight(t, k)) : 0.0;
        leads = leads && weight(t, 0) >= weight(t, k);
        if (t >= 1 && k >= 1) {
          rest += cosine(t, k);
          pairs += 1;
        }
      }
      if (t == 0) continue;
      mass += weight(t, 0);
      argmax += leads ? 1 : 0;
      first += cosine(t, 0);
    }
    result.first_mass.push_back(mass / later);
    result.first_argmax.push_back(argmax / later);
    result.entropy.push_back(entropy / static_cast<double>(length));
    result.cos_first.push_back(first / later);
    result.cos_rest.push_back(rest / pairs);
    for (std::int64_t k = 0; k < length; ++k) {
      double sum = 0;
      for (std::int64_t t = k; t < length; ++t) sum += weight(t, k);
      result.key_mass.push_back(sum);
    }
  }
  return result;
}

Doubles gelu_forward(GeluKind kind, const Doubles& x) {
  Doubles out;
  for (const double v : x)
    if (kind == GeluKind::erf)
      out.push_back(0.5 * v * std::erfc(-v / std::sqrt(2.0)));  // 1 + erf(z) = erfc(-z)
    else
      out.push_back(0.5 * v * (1.0 + std::tanh(std::sqrt(2.0 / 3.14159265358979323846) * (v + 0.044715 * v * v * v))));
  return out;
}

Doubles gelu_backward(GeluKind kind, const Doubles& x, const Doubles& dout) {
  Doubles dx;
  for (std::size_t i = 0; i < x.size(); ++i) dx.push_back(dout.at(i) * gelu_slope(kind, x[i]));
  return dx;
}

Doubles swiglu_forward(const Doubles& gate_up, std::int64_t hidden) {
  Doubles out;
  for (std::int64_t n = 0; n < count(gate_up) / (2 * hidden); ++n)
    for (std::int64_t f = 0; f < hidden; ++f) {
      const double gate = at(gate_up, n * 2 * hidden + f);
      out.push_back(gate * sigmoid(gate) * at(gate_up, n * 2 * hidden + hidden + f));
    }
  return out;
}

Doubles swiglu_backward(const Doubles& gate_up, const Doubles& dout, std::int64_t hidden) {
  Doubles gradient = zeros(count(gate_up));
  for (std::int64_t n = 0; n < count(gate_up) / (2 * hidden); ++n)
    for (std::int64_t f = 0; f < hidden; ++f) {
      const std::int64_t gate_at = n * 2 * hidden + f;
      const double gate = at(gate_up, gate_at);
      const double s = sigmoid(gate);
      const double d = at(dout, n * hidden + f);
      at(gradient, gate_at) = d * at(gate_up, gate_at + hidden) * (s + gate * s * (1.0 - s));
      at(gradient, gate_at + hidden) = d * gate * s;
    }
  return gradient;
}

Doubles cross_entropy_losses(const Doubles& logits, const Tokens& targets) {
  Doubles losses;
  if (targets.empty()) return losses;
  const std::int64_t vocabulary = count(logits) / static_cast<std::int64_t>(targets.size());
  for (std::size_t n = 0; n < targets.size(); ++n) {
    const auto row = static_cast<std::int64_t>(n) * vocabulary;
    const double highest = *std::max_element(logits.begin() + row, logits.begin() + row + vocabulary);
    double sum = 0;
    for (std::int64_t v = 0; v < vocabulary; ++v) sum += std::exp(at(logits, row + v) - highest);
    losses.push_back(targets[n] < 0 ? 0.0 : highest + std::log(sum) - at(logits, row + targets[n]));
  }
  return losses;
}

Doubles cross_entropy_gradient(const Doubles& logits, const Tokens& targets, double scale) {
  Doubles gradient = zeros(count(logits));
  const Doubles losses = cross_entropy_losses(logits, targets);
  for (std::size_t n = 0; n < targets.size(); ++n) {
    if (targets[n] < 0) continue;
    const std::int64_t vocabulary = count(logits) / static_cast<std::int64_t>(targets.size());
    const auto row = static_cast<std::int64_t>(n) * vocabulary;
    const double lse = losses[n] + at(logits, row + targets[n]);
    for (std::int64_t v = 0; v < vocabulary; ++v)
      at(gradient, row + v) = scale * (std::exp(at(logits, row + v) - lse) - (v == targets[n] ? 1.0 : 0.0));
  }
  return gradient;
}

}  // namespace sinkscope::test
