// Non-owning views of dense row-major arrays: a pointer, a dtype and extents.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <string>

namespace sinkscope {

enum class DType : std::uint8_t { f32, bf16, f64, i32 };

std::size_t size_of(DType dtype);
const char* name_of(DType dtype);

/// A view of a dense row-major array of up to four dimensions. Owns nothing. A
/// default-constructed view (`data == nullptr`) stands for "not given" in optional arguments.
struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};

  Tensor() = default;
  Tensor(void* data, DType dtype, std::initializer_list<std::int64_t> extents);

  explicit operator bool() const { return data != nullptr; }

  std::int64_t size() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[static_cast<std::size_t>(i)];
    return rank == 0 ? 0 : n;
  }
  std::int64_t extent(int i) const { return shape[static_cast<std::size_t>(i)]; }
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * size_of(dtype); }

  /// The same elements under other extents. Throws std::invalid_argument when the sizes differ.
  Tensor view(std::initializer_list<std::int64_t> extents) const;
  /// Rows [begin, begin + count) of the first dimension.
  Tensor rows(std::int64_t begin, std::int64_t count) const;

  /// The element pointer. Throws std::invalid_argument when `T` is not the view's dtype.
  template <class T>
  T* as() const;
};

template <>
float* Tensor::as<float>() const;
template <>
double* Tensor::as<double>() const;
template <>
std::int32_t* Tensor::as<std::int32_t>() const;

/// Elements of f32 or bf16, copied from a device, as floats. Throws std::invalid_argument for other dtypes.
void widen(std::span<const std::byte> raw, DType dtype, std::span<float> out);

/// The nearest bf16, of two the even one, and back. NaN stays NaN.
std::uint16_t to_bf16(float x);
float from_bf16(std::uint16_t x);

/// "(2, 3) f32", for messages.
std::string describe(const Tensor& tensor);

}  // namespace sinkscope
