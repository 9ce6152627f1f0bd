// What the tests of the operations share: arrays that start poisoned, random numbers, the one
// difference measure, and finite differences.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace sinkscope::test {

using Doubles = std::vector<double>;
using Tokens = std::vector<std::int32_t>;

/// A row-major array and its view. Elements start as NaN (or the lowest integer), so an output that
/// is not written shows.
template <class T>
class Array {
 public:
  Array(std::initializer_list<std::int64_t> extents) : view_(nullptr, dtype(), extents) {
    values_.assign(static_cast<std::size_t>(view_.size()), poison());
    // One spare element keeps the pointer of an empty array different from "not given".
    values_.push_back(poison());
    view_.data = values_.data();
  }
  Array(std::initializer_list<std::int64_t> extents, const Doubles& values) : Array(extents) { set(values); }
  Array(Array&&) noexcept = default;
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  Array& operator=(Array&&) = delete;

  operator const Tensor&() const { return view_; }  // NOLINT: an array stands for its view
  const Tensor& view() const { return view_; }
  T& operator[](std::int64_t i) { return values_.at(static_cast<std::size_t>(i)); }
  const T& operator[](std::int64_t i) const { return values_.at(static_cast<std::size_t>(i)); }
  std::int64_t size() const { return view_.size(); }

  void set(const Doubles& values) {
    for (std::int64_t i = 0; i < size(); ++i) (*this)[i] = static_cast<T>(values.at(static_cast<std::size_t>(i)));
  }
  Doubles doubles() const { return Doubles(values_.begin(), values_.end() - 1); }
  void fill(T value) { std::fill(values_.begin(), values_.end() - 1, value); }
  void spoil() { fill(poison()); }
  bool same_bits(const Array& other) const {
    return size() == other.size() &&
           std::memcmp(values_.data(), other.values_.data(), static_cast<std::size_t>(size()) * sizeof(T)) == 0;
  }

  static T poison() {
    return std::numeric_limits<T>::has_quiet_NaN ? std::numeric_limits<T>::quiet_NaN()
                                                 : std::numeric_limits<T>::lowest();
  }

 private:
  static DType dtype();
  std::vector<T> values_;
  Tensor view_;
};

template <>
inline DType Array<float>::dtype() { return DType::f32; }
template <>
inline DType Array<double>::dtype() { return DType::f64; }
template <>
inline DType Array<std::int32_t>::dtype() { return DType::i32; }

using Floats = Array<float>;
using Indices = Array<std::int32_t>;

/// Numbers that fp32 holds exactly, so that fp32 operation and double reference see the same input.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  double normal() { return static_cast<double>(static_cast<float>(normal_(engine_))); }
  Doubles normals(std::int64_t count, double spread = 1.0) {
    Doubles out(static_cast<std::size_t>(count));
    for (double& x : out) x = static_cast<double>(static_cast<float>(spread * normal()));
    return out;
  }
  /// In [0, 1).
  Doubles uniforms(std::int64_t count) {
    Doubles out(static_cast<std::size_t>(count));
    for (double& x : out) x = static_cast<double>(below(1 << 24)) / (1 << 24);
    return out;
  }
  std::int64_t below(std::int64_t limit) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(limit));
  }
  Tokens tokens(std::int64_t count, std::int64_t vocabulary) {
    Tokens out(static_cast<std::size_t>(count));
    for (auto& token : out) token = static_cast<std::int32_t>(below(vocabulary));
    return out;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

inline Indices indices(std::initializer_list<std::int64_t> extents, const Tokens& values) {
  return Indices(extents, Doubles(values.begin(), values.end()));
}

/// ||out - reference|| / ||reference||; ||out|| for a zero reference; infinity for a NaN or another size.
double relative_error(const Doubles& out, const Doubles& reference);
inline double relative_error(const Floats& out, const Doubles& reference) {
  return relative_error(out.doubles(), reference);
}

Doubles plus(const Doubles& a, const Doubles& b);
double dot(const Doubles& a, const Doubles& b);

/// Central differences of `loss` with respect to every element of `at`.
Doubles finite_differences(const std::function<double(const Doubles&)>& loss, Doubles at, double step = 1e-5);

/// The message of the exception that `action` throws; empty when it throws none.
template <class Exception, class Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const Exception& error) {
    return error.what();
  }
  return {};
}

// Tolerances of relative_error: fp32 against double, and finite differences against double.
constexpr double kSingle = 2e-6;
constexpr double kDifferences = 1e-7;

}  // namespace sinkscope::test
