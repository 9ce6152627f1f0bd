#include "engine/model/parameters.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine/model/random.h"

namespace sinkscope {
namespace {

constexpr std::int64_t kParameterAlignment = 64;  // elements between the starts of parameters

}  // namespace

ParameterLayout::ParameterLayout(const ModelConfig& config) {
  const std::int64_t C = config.channels, L = config.layers, V = config.vocab_size, F = config.hidden;
  const std::int64_t H = config.heads, G = config.kv_heads, D = config.head_dim;
  const bool layernorm = config.norm == NormType::layernorm;
  const double std = config.init_std;
  // GPT-2 keeps the residual stream's variance independent of depth (Radford et al. 2019, section 2.3).
  const double residual_std = config.init == InitScheme::gpt2 ? std / std::sqrt(2.0 * static_cast<double>(L)) : std;
  const double position_std = config.init == InitScheme::gpt2 ? std / 2.0 : std;

  const auto matrix = [&](const std::string& name, std::int64_t rows, std::int64_t columns, std::int64_t layer,
                          ParameterGroup group, double deviation) {
    add({.name = name, .shape = {rows, columns}, .layer = layer, .group = group, .decay = true, .init_std = deviation});
  };
  const auto vector = [&](const std::string& name, std::int64_t size, std::int64_t layer, ParameterGroup group,
                          double value) {
    add({.name = name, .shape = {size}, .layer = layer, .group = group, .init_value = value});
  };
  const auto linear = [&](const std::string& name, std::int64_t rows, std::int64_t columns, std::int64_t layer,
                          ParameterGroup group, double deviation, bool bias) {
    matrix(name + ".weight", rows, columns, layer, group, deviation);
    if (bias) vector(name + ".bias", rows, layer, group, 0.0);
  };
  const auto norm = [&](const std::string& name, std::int64_t size, std::int64_t layer) {
    vector(name + ".weight", size, layer, ParameterGroup::norm, 1.0);
    if (layernorm) vector(name + ".bias", size, layer, ParameterGroup::norm, 0.0);
  };

  const auto end_section = [&] {
    const std::int64_t begin = sections_.empty() ? 0 : sections_.back().begin + sections_.back().size;
    sections_.push_back({.begin = begin, .size = flat_size_ - begin});
  };

  matrix("embed.token.weight", V, C, -1, ParameterGroup::embedding, std);
  if (config.position == PositionEncoding::learned)
    matrix("embed.position.weight", config.max_sequence_length, C, -1, ParameterGroup::embedding, position_std);
  end_section();
  for (std::int64_t layer = 0; layer < L; ++layer) {
    const std::string block = "blocks." + std::to_string(layer);
    norm(block + ".norm1", C, layer);
    linear(block + ".attention.qkv", (H + 2 * G) * D, C, layer, ParameterGroup::attention, std,
           config.bias || config.qkv_bias);
    if (config.qk_norm) {
      vector(block + ".attention.q_norm.weight", D, layer, ParameterGroup::norm, 1.0);
      vector(block + ".attention.k_norm.weight", D, layer, ParameterGroup::norm, 1.0);
    }
    if (config.attention.sink == AttentionSink::learned)
      vector(block + ".attention.sink", H, layer, ParameterGroup::attention, 0.0);
    linear(block + ".attention.output", C, H * D, layer, ParameterGroup::attention, residual_std, config.bias);
    norm(block + ".norm2", C, layer);
    if (config.mlp == MlpType::swiglu)
      linear(block + ".mlp.gate_up", 2 * F, C, layer, ParameterGroup::mlp, std, config.bias);
    else
      linear(block + ".mlp.up", F, C, layer, ParameterGroup::mlp, std, config.bias);
    linear(block + ".mlp.down", C, F, layer, ParameterGroup::mlp, residual_std, config.bias);
    end_section();
  }
  norm("final_norm", C, -1);
  if (!config.tied_embedding) matrix("head.weight", V, C, -1, ParameterGroup::head, std);
  end_section();
}

void ParameterLayout::add(ParameterSpec spec) {
  spec.size = 1;
  for (const std::int64_t extent : spec.shape) {
    if (extent <= 0)
      throw std::invalid_argument("parameter " + spec.name + " has an extent of " + std::to_string(extent) +
                                  "; the model config is not resolved");
    spec.size *= extent;
  }
  spec.offset = flat_size_;
  flat_size_ += (spec.size + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
  specs_.push_back(std::move(spec));
}

const ParameterSpec& ParameterLayout::find(const std::string& name) const {
  const auto found = std::find_if(specs_.begin(), specs_.end(), [&](const auto& spec) { return spec.name == name; });
  if (found == specs_.end()) throw std::out_of_range("the model has no parameter " + name);
  return *found;
}

bool ParameterLayout::contains(const std::string& name) const {
  return std::any_of(specs_.begin(), specs_.end(), [&](const auto& spec) { return spec.name == name; });
}

std::int64_t ParameterLayout::section_of(const ParameterSpec& spec) const {
  return spec.layer >= 0 ? spec.layer + 1 : spec.offset < sections_.front().size ? 0 : std::ssize(sections_) - 1;
}

std::int64_t ParameterLayout::parameter_count() const {
  std::int64_t count = 0;
  for (const auto& spec : specs_) count += spec.size;
  return count;
}

std::vector<Segment> ParameterLayout::segments() const {
  std::vector<Segment> segments;
  segments.reserve(specs_.size());
  for (const auto& spec : specs_) segments.push_back({spec.offset, spec.size, spec.decay});
  return segments;
}

void initialize_parameters(const ParameterLayout& layout, std::uint64_t seed, std::span<float> flat) {
  if (static_cast<std::int64_t>(flat.size()) != layout.flat_size())
    throw std::invalid_argument("initialize_parameters: expected " + std::to_string(layout.flat_size()) +
                                " elements, got " + std::to_string(flat.size()));
  std::fill(flat.begin(), flat.end(), 0.0F);
  for (const auto& spec : layout.specs()) {
    float* out = flat.data() + spec.offset;
    if (spec.init_std <= 0) {
      std::fill(out, out + spec.size, static_cast<float>(spec.init_value));
      continue;
    }
    const std::uint64_t key = random_key(seed, spec.name);
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < spec.size; ++i)
      out[i] = static_cast<float>(spec.init_std * random_normal(key, static_cast<std::uint64_t>(i)));
  }
}

double training_flops_per_token(const ModelConfig& config, std::int64_t sequence_length) {
  const double C = static_cast<double>(config.channels), F = static_cast<double>(config.hidden);
  const double width = static_cast<double>(config.heads * config.head_dim);
  const double kv_width = static_cast<double>(config.kv_heads * config.head_dim);
  const double attention = C * (width + 2 * kv_width) + width * C;
  const double mlp = (config.mlp == MlpType::swiglu ? 3.0 : 2.0) * C * F;
  const double head = static_cast<double>(config.vocab_size) * C;
  const double L = static_cast<double>(config.layers);
  return 6.0 * (L * (attention + mlp) + head) + 6.0 * L * width * static_cast<double>(sequence_length);
}

}  // namespace sinkscope
