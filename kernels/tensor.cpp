#include "kernels/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace sinkscope {

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::f64:
      return 8;
  }
  throw std::invalid_argument("size_of: unknown dtype");
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
  }
  return "unknown";
}

Tensor::Tensor(void* data_, DType dtype_, std::initializer_list<std::int64_t> extents)
    : data(data_), dtype(dtype_), rank(static_cast<int>(extents.size())) {
  if (extents.size() > kMaxRank) throw std::invalid_argument("Tensor: more than four dimensions");
  std::size_t i = 0;
  for (std::int64_t extent : extents) {
    if (extent < 0) throw std::invalid_argument("Tensor: negative extent");
    shape[i++] = extent;
  }
}

Tensor Tensor::view(std::initializer_list<std::int64_t> extents) const {
  Tensor out(data, dtype, extents);
  if (out.size() != size())
    throw std::invalid_argument("Tensor::view: " + describe(*this) + " has another size than " + describe(out));
  return out;
}

Tensor Tensor::rows(std::int64_t begin, std::int64_t count) const {
  if (rank < 1 || begin < 0 || count < 0 || begin + count > shape[0])
    throw std::invalid_argument("Tensor::rows: rows " + std::to_string(begin) + "+" + std::to_string(count) +
                                " are outside " + describe(*this));
  Tensor out = *this;
  const std::int64_t row = shape[0] == 0 ? 0 : size() / shape[0];
  out.shape[0] = count;
  out.data = static_cast<std::byte*>(data) + static_cast<std::size_t>(begin * row) * size_of(dtype);
  return out;
}

namespace {

void expect_dtype(const Tensor& tensor, DType dtype) {
  if (tensor.dtype != dtype)
    throw std::invalid_argument("Tensor::as: " + describe(tensor) + " read as " + name_of(dtype));
}

}  // namespace

template <>
float* Tensor::as<float>() const {
  expect_dtype(*this, DType::f32);
  return static_cast<float*>(data);
}

template <>
double* Tensor::as<double>() const {
  expect_dtype(*this, DType::f64);
  return static_cast<double*>(data);
}

template <>
std::int32_t* Tensor::as<std::int32_t>() const {
  expect_dtype(*this, DType::i32);
  return static_cast<std::int32_t*>(data);
}

std::string describe(const Tensor& tensor) {
  std::string out = "(";
  for (int i = 0; i < tensor.rank; ++i) {
    if (i > 0) out += ", ";
    out += std::to_string(tensor.extent(i));
  }
  return out + ") " + name_of(tensor.dtype);
}

void widen(std::span<const std::byte> raw, DType dtype, std::span<float> out) {
  switch (dtype) {
    case DType::f32:
      std::copy_n(raw.begin(), out.size_bytes(), std::as_writable_bytes(out).begin());
      return;
    case DType::bf16:
      for (std::size_t i = 0; i < out.size(); ++i) {
        const auto low = std::to_integer<std::uint32_t>(raw[2 * i]);
        const auto high = std::to_integer<std::uint32_t>(raw[2 * i + 1]);
        out[i] = std::bit_cast<float>(high << 24 | low << 16);
      }
      return;
    default:
      throw std::invalid_argument(std::string("widen: elements are ") + name_of(dtype) + ", expected f32 or bf16");
  }
}

std::uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  constexpr std::uint32_t kQuiet = 0x40;
  if (std::isnan(x)) return static_cast<std::uint16_t>(bits >> 16 | kQuiet);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_bf16(std::uint16_t x) { return std::bit_cast<float>(std::uint32_t{x} << 16); }

}  // namespace sinkscope
