#include "tests/model/reference_decoder.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <string>

namespace sinkscope::reference {

namespace {

using Row = std::vector<double>;

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

class Pass {
 public:
  Pass(const ModelConfig& config, const ParameterLayout& layout, std::span<const double> parameters,
       std::int64_t sequences, std::int64_t length, const Edits& edits)
      : config_(config),
        layout_(layout),
        parameters_(parameters),
        sequences_(sequences),
        length_(length),
        rows_(sequences * length),
        edits_(edits) {
    if (parameters.size() != at(layout.flat_size()))
      throw std::invalid_argument("reference decoder: " + std::to_string(parameters.size()) +
                                  " parameters, expected " + std::to_string(layout.flat_size()));
  }

  Activations run(std::span<const std::int32_t> inputs) const {
    Activations result;
    result.sequences = sequences_;
    result.length = length_;
    result.embedding = embed(inputs);
    const Row* h = &result.embedding;
    result.layers.resize(at(config_.layers));
    for (std::int64_t l = 0; l < config_.layers; ++l) {
      Layer& layer = result.layers[at(l)];
      block(l, *h, layer);
      h = &layer.output;
    }
    const Row normed = norm(*h, "final_norm");
    const std::string head = config_.tied_embedding ? "embed.token.weight" : "head.weight";
    result.logits = multiply(normed, config_.channels, find(head), config_.vocab_size, {});
    return result;
  }

 private:
  std::span<const double> find(const std::string& name) const {
    const ParameterSpec& spec = layout_.find(name);
    return parameters_.subspan(at(spec.offset), at(spec.size));
  }

  std::span<const double> find_bias(const std::string& name) const {
    return config_.bias ? find(name) : std::span<const double>{};
  }

  std::span<const double> find_qkv_bias(const std::string& name) const {
    return config_.bias || config_.qkv_bias ? find(name) : std::span<const double>{};
  }

  Row embed(std::span<const std::int32_t> inputs) const {
    if (inputs.size() != at(rows_))
      throw std::invalid_argument("reference decoder: " + std::to_string(inputs.size()) + " inputs, expected " +
                                  std::to_string(rows_));
    const std::int64_t channels = config_.channels;
    const auto token_table = find("embed.token.weight");
    Row h(at(rows_ * channels));
    for (std::int64_t n = 0; n < rows_; ++n) {
      const std::int64_t token = inputs[at(n)];
      if (token < 0 || token >= config_.vocab_size)
        throw std::invalid_argument("reference decoder: token " + std::to_string(token) + " outside the vocabulary");
      for (std::int64_t c = 0; c < channels; ++c) h[at(n * channels + c)] = token_table[at(token * channels + c)];
    }
    if (config_.position == PositionEncoding::learned) {
      const auto position_table = find("embed.position.weight");
      for (std::int64_t n = 0; n < rows_; ++n)
        for (std::int64_t c = 0; c < channels; ++c)
          h[at(n * channels + c)] += position_table[at((n % length_) * channels + c)];
    }
    return h;
  }

  // out = x weight^T + bias; x (N, in), weight (out, in).
  Row multiply(const Row& x, std::int64_t in, std::span<const double> weight, std::int64_t out,
               std::span<const double> bias) const {
    Row result(at(rows_ * out));
    for (std::int64_t n = 0; n < rows_; ++n)
      for (std::int64_t o = 0; o < out; ++o) {
        double sum = bias.empty() ? 0.0 : bias[at(o)];
        for (std::int64_t i = 0; i < in; ++i) sum += x[at(n * in + i)] * weight[at(o * in + i)];
        result[at(n * out + o)] = sum;
      }
    return result;
  }

  Row norm(const Row& x, const std::string& name) const {
    const std::int64_t channels = config_.channels;
    const auto weight = find(name + ".weight");
    const bool centred = config_.norm == NormType::layernorm;
    const auto bias = centred ? find(name + ".bias") : std::span<const double>{};
    Row out(x.size());
    for (std::int64_t n = 0; n < rows_; ++n) {
      const double* row = x.data() + n * channels;
      double mean = 0;
      if (centred) {
        for (std::int64_t c = 0; c < channels; ++c) mean += row[c];
        mean /= static_cast<double>(channels);
      }
      double square = 0;
      for (std::int64_t c = 0; c < channels; ++c) square += (row[c] - mean) * (row[c] - mean);
      const double rstd = 1 / std::sqrt(square / static_cast<double>(channels) + config_.norm_eps);
      for (std::int64_t c = 0; c < channels; ++c)
        out[at(n * channels + c)] = (row[c] - mean) * rstd * weight[at(c)] + (centred ? bias[at(c)] : 0.0);
    }
    return out;
  }

  void block(std::int64_t l, const Row& h, Layer& layer) const {
    const std::string prefix = "blocks." + std::to_string(l) + ".";
    const std::int64_t channels = config_.channels;
    layer.input = h;
    layer.qkv = project(prefix + "attention.", norm(h, prefix + "norm1"));
    const Row mixed = attend(layer, sink_logits(l), l < edits_.isolated_layers ? edits_.isolated_position : -1);
    layer.attention_output =
        multiply(mixed, config_.heads * config_.head_dim, find(prefix + "attention.output.weight"), channels,
                 find_bias(prefix + "attention.output.bias"));
    if (l == edits_.knocked_attention) set_rows(layer.attention_output, edits_.knocked_position, {});
    layer.middle = h;
    for (std::size_t i = 0; i < h.size(); ++i) layer.middle[i] += layer.attention_output[i];
    layer.mlp_output = mlp(prefix + "mlp.", norm(config_.parallel_block ? h : layer.middle, prefix + "norm2"));
    if (l == edits_.knocked_mlp) set_rows(layer.mlp_output, edits_.knocked_position, {});
    layer.output = layer.middle;
    for (std::size_t i = 0; i < h.size(); ++i) layer.output[i] += layer.mlp_output[i];
    if (l == edits_.transplant_layer) set_rows(layer.output, edits_.transplant_position, edits_.transplant);
  }

  /// Row `position` of every sequence becomes `vector`; zeros when that is empty.
  void set_rows(Row& rows, std::int64_t position, std::span<const double> vector) const {
    for (std::int64_t b = 0; b < sequences_; ++b)
      for (std::int64_t c = 0; c < config_.channels; ++c)
        rows[at((b * length_ + position) * config_.channels + c)] = vector.empty() ? 0.0 : vector[at(c)];
  }

  Row project(const std::string& prefix, const Row& normed) const {
    const std::int64_t heads = config_.heads + 2 * config_.kv_heads;
    const std::int64_t size = config_.head_dim;
    Row qkv = multiply(normed, config_.channels, find(prefix + "qkv.weight"), heads * size,
                       find_qkv_bias(prefix + "qkv.bias"));
    for (std::int64_t n = 0; n < rows_; ++n)
      for (std::int64_t head = 0; head < config_.heads + config_.kv_heads; ++head) {
        const std::span<double> vector(qkv.data() + (n * heads + head) * size, at(size));
        if (config_.qk_norm)
          normalize_head(vector, find(prefix + (head < config_.heads ? "q_norm.weight" : "k_norm.weight")));
        if (config_.position == PositionEncoding::rope)
          rotate(vector.first(at(config_.rotary_dim == 0 ? size : config_.rotary_dim)),
                 n % length_ == 0 ? edits_.first_rotary_index : n % length_);
      }
    return qkv;
  }

  void normalize_head(std::span<double> vector, std::span<const double> weight) const {
    double square = 0;
    for (const double value : vector) square += value * value;
    const double rstd = 1 / std::sqrt(square / static_cast<double>(vector.size()) + config_.norm_eps);
    for (std::size_t d = 0; d < vector.size(); ++d) vector[d] *= rstd * weight[d];
  }

  void rotate(std::span<double> vector, std::int64_t position) const {
    const std::size_t half = vector.size() / 2;
    for (std::size_t d = 0; d < half; ++d) {
      const double exponent = -2.0 * static_cast<double>(d) / static_cast<double>(vector.size());
      const double angle = static_cast<double>(position) * std::pow(config_.rope_theta, exponent);
      const double x = vector[d];
      const double y = vector[d + half];
      vector[d] = x * std::cos(angle) - y * std::sin(angle);
      vector[d + half] = y * std::cos(angle) + x * std::sin(angle);
    }
  }

  /// (H); empty where there are none.
  Row sink_logits(std::int64_t l) const {
    if (config_.attention.sink == AttentionSink::none) return {};
    if (config_.attention.sink == AttentionSink::off_by_one) return Row(at(config_.heads), 0.0);
    const auto logits = find("blocks." + std::to_string(l) + ".attention.sink");
    return Row(logits.begin(), logits.end());
  }

  // Fills layer.attention; returns the mixed values (B*T, H*D).
  Row attend(Layer& layer, const Row& sink_logits, std::int64_t isolated) const {
    const std::int64_t query_heads = config_.heads;
    const std::int64_t groups = config_.kv_heads;
    const std::int64_t size = config_.head_dim;
    const auto vector = [&](std::int64_t b, std::int64_t t, std::int64_t head) {
      return layer.qkv.data() + ((b * length_ + t) * (query_heads + 2 * groups) + head) * size;
    };
    layer.attention.assign(at(sequences_ * query_heads * length_ * length_), 0.0);
    Row mixed(at(rows_ * query_heads * size), 0.0);
    for (std::int64_t b = 0; b < sequences_; ++b)
      for (std::int64_t h = 0; h < query_heads; ++h) {
        const std::int64_t group = h / (query_heads / groups);
        for (std::int64_t t = 0; t < length_; ++t) {
          double* weights = layer.attention.data() + ((b * query_heads + h) * length_ + t) * length_;
          const double* query = vector(b, t, h);
          const std::int64_t first = t == isolated ? t : 0;
          for (std::int64_t k = first; k <= t; ++k) {
            const double* key = vector(b, k, query_heads + group);
            for (std::int64_t d = 0; d < size; ++d) weights[k] += query[d] * key[d];
            weights[k] /= std::sqrt(static_cast<double>(size));
          }
          const double largest = *std::max_element(weights + first, weights + t + 1);
          double total = sink_logits.empty() ? 0.0 : std::exp(sink_logits[at(h)] - largest);
          for (std::int64_t k = first; k <= t; ++k) total += weights[k] = std::exp(weights[k] - largest);
          double* out = mixed.data() + ((b * length_ + t) * query_heads + h) * size;
          for (std::int64_t k = first; k <= t; ++k) {
            weights[k] /= total;
            const double* value = vector(b, k, query_heads + groups + group);
            for (std::int64_t d = 0; d < size; ++d) out[d] += weights[k] * value[d];
          }
        }
      }
    return mixed;
  }

  Row mlp(const std::string& prefix, const Row& normed) const {
    const std::int64_t hidden = config_.hidden;
    Row active;
    if (config_.mlp != MlpType::swiglu) {
      active = multiply(normed, config_.channels, find(prefix + "up.weight"), hidden, find_bias(prefix + "up.bias"));
      const double slope = std::sqrt(2 / std::numbers::pi);
      for (double& x : active)
        if (config_.mlp == MlpType::gelu_erf)
          x = 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
        else
          x = 0.5 * x * (1 + std::tanh(slope * (x + 0.044715 * x * x * x)));
    } else {
      const Row both = multiply(normed, config_.channels, find(prefix + "gate_up.weight"), 2 * hidden,
                                find_bias(prefix + "gate_up.bias"));
      active.resize(at(rows_ * hidden));
      for (std::int64_t n = 0; n < rows_; ++n)
        for (std::int64_t f = 0; f < hidden; ++f) {
          const double gate = both[at(n * 2 * hidden + f)];
          active[at(n * hidden + f)] = gate / (1 + std::exp(-gate)) * both[at((n * 2 + 1) * hidden + f)];
        }
    }
    return multiply(active, hidden, find(prefix + "down.weight"), config_.channels, find_bias(prefix + "down.bias"));
  }

  const ModelConfig& config_;
  const ParameterLayout& layout_;
  std::span<const double> parameters_;
  std::int64_t sequences_, length_, rows_;
  const Edits& edits_;
};

}  // namespace

const std::vector<double>& Activations::residual(std::int64_t row) const {
  return row == 0 ? embedding : layers.at(at(row - 1)).output;
}

Activations forward(const ModelConfig& config, const ParameterLayout& layout, std::span<const double> parameters,
                    std::int64_t sequences, std::int64_t length, std::span<const std::int32_t> inputs,
                    const Edits& edits) {
  return Pass(config, layout, parameters, sequences, length, edits).run(inputs);
}

std::vector<double> sink_scores(const ModelConfig& config, const Activations& run, std::int64_t watched) {
  const std::int64_t T = run.length;
  std::vector<double> out;
  for (const Layer& layer : run.layers)
    for (std::int64_t head = 0; head < run.sequences * config.heads; ++head)
      for (std::int64_t k = 0; k < watched; ++k) {
        double sum = 0;
        for (std::int64_t t = k; t < T; ++t) sum += layer.attention[at((head * T + t) * T + k)];
        out.push_back(sum / static_cast<double>(T - k));
      }
  return out;
}

std::vector<double> residual_norms(const ModelConfig& config, const Activations& run) {
  std::vector<double> out;
  for (std::int64_t row = 0; row <= config.layers; ++row)
    for (std::int64_t n = 0; n < run.sequences * run.length; ++n) {
      double squares = 0;
      for (std::int64_t c = 0; c < config.channels; ++c) {
        const double x = run.residual(row)[at(n * config.channels + c)];
        squares += x * x;
      }
      out.push_back(std::sqrt(squares));
    }
  return out;
}

Loss loss(const ModelConfig& config, const Activations& activations, std::span<const std::int32_t> targets) {
  const std::int64_t vocabulary = config.vocab_size;
  const std::int64_t rows = activations.sequences * activations.length;
  if (targets.size() != at(rows))
    throw std::invalid_argument("reference decoder: " + std::to_string(targets.size()) + " targets, expected " +
                                std::to_string(rows));
  Loss result;
  result.per_target.assign(at(rows), 0.0);
  for (std::int64_t n = 0; n < rows; ++n) {
    const std::int64_t target = targets[at(n)];
    if (target == -1) continue;
    if (target < 0 || target >= vocabulary)
      throw std::invalid_argument("reference decoder: target " + std::to_string(target) + " outside the vocabulary");
    const double* logits = activations.logits.data() + n * vocabulary;
    const double largest = *std::max_element(logits, logits + vocabulary);
    double total = 0;
    for (std::int64_t v = 0; v < vocabulary; ++v) total += std::exp(logits[v] - largest);
    result.per_target[at(n)] = largest + std::log(total) - logits[target];
    result.sum += result.per_target[at(n)];
    ++result.count;
  }
  return result;
}

Loss loss(const ModelConfig& config, const ParameterLayout& layout, std::span<const double> parameters,
          std::int64_t sequences, std::int64_t length, std::span<const std::int32_t> inputs,
          std::span<const std::int32_t> targets) {
  return loss(config, forward(config, layout, parameters, sequences, length, inputs), targets);
}

}  // namespace sinkscope::reference
