// Scratch memory of the CPU backend: grows to the largest request and stays, so that a training
// step allocates nothing after the first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace sinkscope {

/// Rounded up to whole cache lines of floats.
constexpr std::int64_t round_to_line(std::int64_t floats) { return (floats + 15) / 16 * 16; }

class Workspace {
 public:
  static constexpr std::size_t kAlignment = 256;

  /// At least `count` values of T, 256-byte aligned, not initialised; valid until the next call.
  template <class T>
  T* take(std::int64_t count) {
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + kAlignment) / kAlignment * kAlignment;
    if (bytes > bytes_) {
      data_.reset();
      bytes_ = 0;
      data_.reset(std::aligned_alloc(kAlignment, bytes));
      if (!data_) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  std::size_t bytes_ = 0;
};

}  // namespace sinkscope
