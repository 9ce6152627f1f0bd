#include "engine/probes/step_probe.h"

#include <stdexcept>
#include <string>

#include "engine/probes/norms.h"

namespace sinkscope {

namespace {

void expect_size(const char* name, std::size_t size, std::int64_t expected) {
  if (size != static_cast<std::size_t>(expected))
    throw std::invalid_argument("summarize_step: " + std::string(name) + " has " + std::to_string(size) +
                                " elements, expected " + std::to_string(expected));
}

}  // namespace

void summarize_step(std::span<const float> sink, std::span<const float> residual_norms, const StepShape& shape,
                    double threshold, StepAccumulator& accumulator) {
  if (!sink.empty()) {
    expect_size("sink", sink.size(), shape.layers * shape.sequences * shape.heads * shape.positions);
    SinkTally& sinks = accumulator.sinks_;
    if (sinks.layers() == 0) sinks = SinkTally(shape.layers, shape.heads, shape.positions, threshold);
    if (sinks.layers() != shape.layers)
      throw std::invalid_argument("summarize_step: sink of a model with another number of layers");
    const auto layer_size = static_cast<std::size_t>(shape.sequences * shape.heads * shape.positions);
    for (std::int64_t l = 0; l < shape.layers; ++l)
      sinks.add(l, shape.sequences, sink.subspan(static_cast<std::size_t>(l) * layer_size, layer_size));
  }

  if (!residual_norms.empty()) {
    expect_size("residual_norms", residual_norms.size(), (shape.layers + 1) * shape.sequences * shape.length);
    if (shape.length < 2) throw std::invalid_argument("summarize_step: residual_norms of sequences shorter than 2");
    if (shape.positions > shape.length)
      throw std::invalid_argument("summarize_step: residual_norms of sequences shorter than the positions watched");
    const auto rows = static_cast<std::size_t>(shape.layers + 1), positions = static_cast<std::size_t>(shape.positions);
    if (accumulator.norm_rest_.empty()) {
      accumulator.norm_.assign(rows * positions, 0.0);
      accumulator.norm_rest_.assign(rows, 0.0);
      accumulator.norm_ratio_.assign(rows, 0.0);
    }
    expect_size("residual_norms (layers)", rows, static_cast<std::int64_t>(accumulator.norm_rest_.size()));
    const auto row_size = static_cast<std::size_t>(shape.sequences * shape.length);
    for (std::size_t row = 0; row < rows; ++row) {
      const auto norms = residual_norms.subspan(row * row_size, row_size);
      add_norms(norms, shape.length, std::span(accumulator.norm_).subspan(row * positions, positions),
                accumulator.norm_rest_[row]);
      accumulator.norm_ratio_[row] += norm_ratio_sum(norms, shape.length);
    }
    accumulator.norm_sequences_ += static_cast<double>(shape.sequences);
  }
}

void StepAccumulator::fill(StepRecord& record) const {
  if (sinks_.layers() > 0) {
    record.sink_score = sinks_.scores();
    record.sink_rate = sinks_.rates();
    const std::vector<double> by_layer = sinks_.layer_scores();
    record.sink_score_layer.clear();
    for (std::size_t i = 0; i < by_layer.size(); i += record.sink_score.size())
      record.sink_score_layer.push_back(by_layer[i]);
  }
  record.residual_norm = norm_;
  record.residual_norm_rest = norm_rest_;
  record.norm_ratio = norm_ratio_;
  for (std::vector<double>* field : {&record.residual_norm, &record.residual_norm_rest, &record.norm_ratio})
    for (double& value : *field) value /= norm_sequences_;
}

}  // namespace sinkscope
