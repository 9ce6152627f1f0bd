// Matrices as pictures.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sinkscope {

/// A PNG file (W3C PNG specification, third edition) and its size in pixels.
struct Picture {
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::string png;
};

/// `values` (rows, columns) row-major, row 0 at the top, one square a value: dark for `low` and less,
/// bright for `high` and more, grey for a value that is not a number. Throws std::invalid_argument
/// when the sizes do not fit or nothing is there.
Picture draw_heatmap(const std::vector<double>& values, std::int64_t rows, std::int64_t columns, double low,
                     double high);

}  // namespace sinkscope
