#include "engine/model/forward_edits.h"

#include <stdexcept>
#include <string>

namespace sinkscope {

void check_edits(const ForwardEdits& edits, const ModelConfig& model, DType real, std::int64_t length) {
  const auto expect = [&](const char* edit, const char* what, std::int64_t value, std::int64_t limit) {
    if (value < 0 || value >= limit)
      throw std::invalid_argument(std::string("Decoder::forward: ") + edit + ": " + what + " " + std::to_string(value) +
                                  ", expected one of " + std::to_string(limit));
  };
  if (edits.knock_out.layer != -1) {
    expect("knock-out", "layer", edits.knock_out.layer, model.layers);
    expect("knock-out", "position", edits.knock_out.position, length);
  }
  if (edits.transplant.layer != -1) {
    expect("transplant", "layer", edits.transplant.layer, model.layers);
    expect("transplant", "position", edits.transplant.position, length);
    const Tensor& vector = edits.transplant.vector;
    if (vector.dtype != real || vector.size() != model.channels)
      throw std::invalid_argument("Decoder::forward: transplant: the vector is " + describe(vector) + ", expected " +
                                  std::to_string(model.channels) + " channels of " + name_of(real));
  }
  if (edits.isolation.layers != 0 || edits.isolation.position != -1) {
    if (edits.isolation.layers < 1 || edits.isolation.layers > model.layers)
      throw std::invalid_argument("Decoder::forward: isolation: " + std::to_string(edits.isolation.layers) +
                                  " layers, expected 1 to " + std::to_string(model.layers));
    expect("isolation", "position", edits.isolation.position, length);
  }
  expect("rotary shift", "index", edits.first_rotary_index, length);
  if (edits.first_rotary_index != 0 && model.position != PositionEncoding::rope)
    throw std::invalid_argument("Decoder::forward: rotary shift: the model has no rotary embedding");
}

void set_position(Ops& ops, const Tensor& x, std::int64_t sequences, std::int64_t position, const Tensor& vector) {
  const std::int64_t length = x.extent(0) / sequences;
  for (std::int64_t b = 0; b < sequences; ++b) {
    const Tensor row = x.rows(b * length + position, 1);
    if (vector)
      ops.copy(row, vector.view({1, x.extent(1)}));
    else
      ops.zero(row);
  }
}

}  // namespace sinkscope
