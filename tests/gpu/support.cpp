#include "tests/gpu/support.h"

#include <bit>
#include <map>

namespace sinkscope::test {
namespace {

std::uint16_t bf16_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

float from_bf16_bits(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

}  // namespace

float round_to_bf16(float x) { return from_bf16_bits(bf16_bits(x)); }

Backends::Backends(DType real, const ChooseAlgorithm& choose)
    : real_(real),
      cpu_(make_cpu_ops()),
      gpu_(make_cuda_ops({.device = 0, .compute = real, .choose = choose, .worth_timing = 0})) {}

bool is_hopper(const Ops& ops) {
  const std::string gpu = ops.gpu_name();
  return gpu.find("H100") != std::string::npos || gpu.find("H200") != std::string::npos;
}

ChooseAlgorithm prefer_own_kernel(std::set<std::string>& products) {
  return [&products, record = std::make_shared<std::map<std::string, std::string>>()](
             const std::string& product, const std::function<std::string()>& time) -> std::string {
    if (product.find("own kernel") != std::string::npos) {
      products.insert(product);
      return "own-kernel";
    }
    const auto known = record->find(product);
    return known != record->end() ? known->second : record->emplace(product, time()).first->second;
  };
}

Tensor Backends::device_array(std::initializer_list<std::int64_t> extents, DType dtype) {
  const Tensor shape(nullptr, dtype, extents);
  buffers_.push_back(gpu_->allocate(shape.bytes() + 1));
  const Tensor out(buffers_.back().get(), dtype, extents);
  spoil(out);
  return out;
}

void Backends::spoil(const Tensor& tensor) {
  const std::vector<unsigned char> ones(tensor.bytes(), 0xff);  // a NaN in f32, bf16 and f64
  gpu_->copy_from_host(tensor, ones.data());
}

template <class T>
Both<T> Backends::make(std::initializer_list<std::int64_t> extents, const Doubles* values, DType dtype) {
  Both<T> both{Array<T>(extents), device_array(extents, dtype)};
  if (values == nullptr) return both;
  both.cpu.set(*values);
  if constexpr (std::is_same_v<T, float>) {
    if (dtype == DType::bf16) {
      std::vector<std::uint16_t> halves;
      for (std::int64_t i = 0; i < both.cpu.size(); ++i) {
        halves.push_back(bf16_bits(both.cpu[i]));
        both.cpu[i] = from_bf16_bits(halves.back());
      }
      gpu_->copy_from_host(both.gpu, halves.data());
      return both;
    }
  }
  gpu_->copy_from_host(both.gpu, both.cpu.view().data);
  return both;
}

BothFloats Backends::input(std::initializer_list<std::int64_t> extents, const Doubles& values) {
  return make<float>(extents, &values, real_);
}
BothFloats Backends::single(std::initializer_list<std::int64_t> extents, const Doubles& values) {
  return make<float>(extents, &values, DType::f32);
}
Both<std::int32_t> Backends::integers(std::initializer_list<std::int64_t> extents, const Tokens& values) {
  const Doubles doubles(values.begin(), values.end());
  return make<std::int32_t>(extents, &doubles, DType::i32);
}
BothFloats Backends::output(std::initializer_list<std::int64_t> extents) {
  return make<float>(extents, nullptr, real_);
}
BothFloats Backends::single_output(std::initializer_list<std::int64_t> extents) {
  return make<float>(extents, nullptr, DType::f32);
}
Both<double> Backends::double_output(std::initializer_list<std::int64_t> extents) {
  return make<double>(extents, nullptr, DType::f64);
}

Bytes Backends::bytes(const Tensor& tensor) {
  Bytes out(tensor.bytes());
  gpu_->copy_to_host(out.data(), tensor);
  return out;
}

Doubles Backends::read(const Tensor& tensor) {
  const Bytes raw = bytes(tensor);
  Doubles out(static_cast<std::size_t>(tensor.size()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::byte* at = raw.data() + i * size_of(tensor.dtype);
    const auto as = [&]<class T>(T value) {
      std::memcpy(&value, at, sizeof value);
      return value;
    };
    switch (tensor.dtype) {
      case DType::f32: out[i] = static_cast<double>(as(0.0F)); break;
      case DType::f64: out[i] = as(0.0); break;
      case DType::i32: out[i] = as(std::int32_t{0}); break;
      case DType::bf16: out[i] = static_cast<double>(from_bf16_bits(as(std::uint16_t{0}))); break;
    }
  }
  return out;
}

}  // namespace sinkscope::test
