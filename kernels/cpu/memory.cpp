// Buffers and copies. The device is the host, so copies are plain ones.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"

namespace sinkscope {
namespace {

void copy_bytes(int threads, void* dst, const void* src, std::size_t bytes) {
  parallel_range(threads, static_cast<std::int64_t>(bytes), 1, [&](std::int64_t begin, std::int64_t end) {
    if (begin < end)
      std::memmove(static_cast<std::byte*>(dst) + begin, static_cast<const std::byte*>(src) + begin,
                   static_cast<std::size_t>(end - begin));
  });
}

constexpr const char* kGroup = "/sys/fs/cgroup/";

/// The number behind a word of a file of the kernel's, or the first one where the word is empty.
std::optional<std::size_t> number_in(const std::string& file, const std::string& name) {
  std::ifstream stream(file);
  std::size_t number = 0;
  if (name.empty()) return stream >> number ? std::optional(number) : std::nullopt;
  for (std::string word; stream >> word;)
    if (word == name) return stream >> number ? std::optional(number) : std::nullopt;
  return std::nullopt;
}

/// What the control group of a container leaves, its page cache counted in.
std::optional<std::size_t> left_in_group() {
  const std::string group = kGroup;
  const auto limit = number_in(group + "memory.max", ""), used = number_in(group + "memory.current", "");
  if (!limit || !used) return std::nullopt;
  const std::size_t cached = number_in(group + "memory.stat", "inactive_file").value_or(0) +
                             number_in(group + "memory.stat", "active_file").value_or(0);
  const std::size_t held = *used - std::min(*used, cached);
  return *limit - std::min(*limit, held);
}

}  // namespace

void BufferDeleter::operator()(std::byte* data) const {
  if (ops != nullptr) ops->release(data);
}

namespace {

class CalledWork final : public RepeatedWork {
 public:
  void run(const std::function<void()>& work) override { work(); }
};

}  // namespace

std::unique_ptr<RepeatedWork> Ops::repeated_work() { return std::make_unique<CalledWork>(); }

Buffer CpuOps::allocate(std::size_t bytes) {
  const std::size_t rounded = (bytes / Workspace::kAlignment + 1) * Workspace::kAlignment;
  if (rounded < bytes) throw std::bad_alloc();
  void* data = std::aligned_alloc(Workspace::kAlignment, rounded);
  if (data == nullptr)
    throw std::runtime_error(std::to_string(rounded >> 20) +
                             " MiB of memory were asked for at once, and the system does not give them");
  return Buffer(static_cast<std::byte*>(data), BufferDeleter{this});
}

std::optional<std::size_t> CpuOps::memory_available() const {
  std::optional<std::size_t> available = number_in("/proc/meminfo", "MemAvailable:");
  if (available) *available *= 1024;
  if (const auto left = left_in_group()) available = available ? std::min(*available, *left) : *left;
  return available;
}

void CpuOps::release(std::byte* data) noexcept { std::free(data); }

void CpuOps::copy_from_host(const Tensor& dst, const void* src) {
  const Check check("copy_from_host");
  if (dst.bytes() == 0) return;
  check.that(static_cast<bool>(dst), "dst", "is not given");
  check.that(src != nullptr, "src", "is null");
  copy_bytes(threads_, dst.data, src, dst.bytes());
}

void CpuOps::copy_to_host(void* dst, const Tensor& src) {
  const Check check("copy_to_host");
  if (src.bytes() == 0) return;
  check.that(static_cast<bool>(src), "src", "is not given");
  check.that(dst != nullptr, "dst", "is null");
  copy_bytes(threads_, dst, src.data, src.bytes());
}

std::function<void()> CpuOps::copy_to_host_later(void* dst, const Tensor& src) {
  Check("copy_to_host_later").that(dst != nullptr || src.bytes() == 0, "dst", "is null");
  std::vector<std::byte> kept(src.bytes());
  copy_to_host(kept.data(), src);
  return [dst, kept = std::move(kept)] { std::copy(kept.begin(), kept.end(), static_cast<std::byte*>(dst)); };
}

void CpuOps::copy(const Tensor& dst, const Tensor& src) {
  const Check check("copy");
  check.that(static_cast<bool>(dst), "dst", "is not given");
  check.that(static_cast<bool>(src), "src", "is not given");
  check.that(dst.dtype == src.dtype && dst.size() == src.size(), "dst",
             "is " + describe(dst) + ", expected the dtype and size of src, " + describe(src));
  copy_bytes(threads_, dst.data, src.data, dst.bytes());
}

void CpuOps::zero(const Tensor& dst) {
  if (dst.bytes() == 0) return;
  Check("zero").that(static_cast<bool>(dst), "dst", "is not given");
  parallel_range(threads_, static_cast<std::int64_t>(dst.bytes()), 1, [&](std::int64_t begin, std::int64_t end) {
    std::memset(static_cast<std::byte*>(dst.data) + begin, 0, static_cast<std::size_t>(end - begin));
  });
}

void CpuOps::zero_each(std::span<const Tensor> arrays) {
  for (const Tensor& array : arrays) {
    Check("zero_each").shape("arrays", array, DType::f32, {array.size()});
    zero(array);
  }
}

}  // namespace sinkscope
