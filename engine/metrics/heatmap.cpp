#include "engine/metrics/heatmap.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

namespace sinkscope {
namespace {

constexpr std::int64_t kCell = 16;  // pixels of a value's side
using Colour = std::array<double, 3>;

constexpr Colour kMissing = {128, 128, 128};
// From dark blue over green to yellow, rising in brightness, so that it also reads in grey.
constexpr std::array<Colour, 5> kScale = {
    {{68, 1, 84}, {59, 82, 139}, {33, 145, 140}, {94, 201, 98}, {253, 231, 37}}};

Colour colour_of(double value, double low, double high) {
  if (std::isnan(value)) return kMissing;
  const double share = high > low ? std::clamp((value - low) / (high - low), 0.0, 1.0) : 0.0;
  const double place = share * static_cast<double>(kScale.size() - 1);
  const auto index = std::min(kScale.size() - 2, static_cast<std::size_t>(place));
  const double weight = place - static_cast<double>(index);
  Colour out{};
  for (std::size_t c = 0; c < 3; ++c) out[c] = (1 - weight) * kScale[index][c] + weight * kScale[index + 1][c];
  return out;
}

std::string big_endian(std::uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>((value >> shift) & 0xffU);
  return out;
}

std::string chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  const uLong checksum = crc32(0, reinterpret_cast<const Bytef*>(body.data()), static_cast<uInt>(body.size()));
  return big_endian(static_cast<std::uint32_t>(data.size())) + body + big_endian(static_cast<std::uint32_t>(checksum));
}

std::string compress(const std::string& bytes) {
  uLongf size = compressBound(static_cast<uLong>(bytes.size()));
  std::string out(size, '\0');
  const int result =
      compress2(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(bytes.data()),
                static_cast<uLong>(bytes.size()), Z_DEFAULT_COMPRESSION);
  if (result != Z_OK) throw std::runtime_error("draw_heatmap: zlib fails with code " + std::to_string(result));
  out.resize(size);
  return out;
}

}  // namespace

Picture draw_heatmap(const std::vector<double>& values, std::int64_t rows, std::int64_t columns, double low,
                     double high) {
  if (rows <= 0 || columns <= 0 || static_cast<std::int64_t>(values.size()) != rows * columns)
    throw std::invalid_argument("draw_heatmap: " + std::to_string(values.size()) + " values for " +
                                std::to_string(rows) + " rows of " + std::to_string(columns));
  Picture picture{columns * kCell, rows * kCell, {}};
  std::string pixels;
  for (std::int64_t row = 0; row < rows; ++row) {
    std::string line(1, '\0');  // filter type: none
    for (std::int64_t column = 0; column < columns; ++column) {
      const Colour colour = colour_of(values[static_cast<std::size_t>(row * columns + column)], low, high);
      for (std::int64_t x = 0; x < kCell; ++x)
        for (const double part : colour) line += static_cast<char>(static_cast<unsigned char>(std::lround(part)));
    }
    for (std::int64_t y = 0; y < kCell; ++y) pixels += line;
  }
  const std::string header = big_endian(static_cast<std::uint32_t>(picture.width)) +
                             big_endian(static_cast<std::uint32_t>(picture.height)) +
                             std::string("\x08\x02\x00\x00\x00", 5);  // 8 bits, RGB
  picture.png = "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + chunk("IDAT", compress(pixels)) + chunk("IEND", "");
  return picture;
}

}  // namespace sinkscope
