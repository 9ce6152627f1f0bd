// The CUDA backend against the CPU one: arrays that exist on both, poisoned outputs, and the bound
// on the relative difference that each compute dtype allows.
#pragma once

#include <cstddef>
#include <memory>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/support.h"

namespace sinkscope::test {

/// x rounded to bf16 (to nearest, ties to even).
float round_to_bf16(float x);

/// One array on the CPU (f32, or its own dtype) and on the GPU.
template <class T>
struct Both {
  Array<T> cpu;
  Tensor gpu;
};
using BothFloats = Both<float>;

/// What an array holds. A check that fails tells its size: Catch2 would print large ones for many minutes.
struct Bytes : std::vector<std::byte> {
  using std::vector<std::byte>::vector;
};
inline std::ostream& operator<<(std::ostream& out, const Bytes& bytes) { return out << bytes.size() << " bytes"; }

/// Both backends, one compute dtype of the GPU.
class Backends {
 public:
  /// `choose`, where it is given, is asked about products of every size.
  explicit Backends(DType real, const ChooseAlgorithm& choose = {});

  Ops& cpu() { return *cpu_; }
  Ops& gpu() { return *gpu_; }
  DType real() const { return real_; }
  std::string name() const { return name_of(real_); }
  /// The bound for this dtype: `single` for f32, `half` for bf16.
  double bound(double single, double half) const { return real_ == DType::f32 ? single : half; }

  /// The same values on both sides, first rounded to the compute dtype.
  BothFloats input(std::initializer_list<std::int64_t> extents, const Doubles& values);
  /// An f32 array, whatever the compute dtype: statistics, gradients of parameters.
  BothFloats single(std::initializer_list<std::int64_t> extents, const Doubles& values);
  Both<std::int32_t> integers(std::initializer_list<std::int64_t> extents, const Tokens& values);
  /// Poisoned outputs.
  BothFloats output(std::initializer_list<std::int64_t> extents);
  BothFloats single_output(std::initializer_list<std::int64_t> extents);
  Both<double> double_output(std::initializer_list<std::int64_t> extents);

  /// The GPU's elements.
  Doubles read(const Tensor& tensor);
  /// ||gpu - cpu|| / ||cpu||.
  template <class T>
  double difference(const Both<T>& both) {
    return relative_error(read(both.gpu), both.cpu.doubles());
  }
  /// The GPU's bytes.
  Bytes bytes(const Tensor& tensor);
  void spoil(const Tensor& tensor);

  Tensor device_array(std::initializer_list<std::int64_t> extents, DType dtype);

 private:
  template <class T>
  Both<T> make(std::initializer_list<std::int64_t> extents, const Doubles* values, DType dtype);

  DType real_;
  std::unique_ptr<Ops> cpu_, gpu_;
  std::vector<Buffer> buffers_;
};

/// Picks one side of arrays; a null pointer is an optional argument that is not given.
struct CpuSide {
  template <class T>
  Tensor operator()(const Both<T>& both) const { return both.cpu.view(); }
  template <class T>
  Tensor operator()(const Both<T>* both) const { return both == nullptr ? Tensor{} : both->cpu.view(); }
};
struct GpuSide {
  template <class T>
  Tensor operator()(const Both<T>& both) const { return both.gpu; }
  template <class T>
  Tensor operator()(const Both<T>* both) const { return both == nullptr ? Tensor{} : both->gpu; }
};

/// Whether it is a GPU of the Hopper generation by its name: H100 or H200.
bool is_hopper(const Ops& ops);

/// Takes our own kernel for every product that it can do and, of others, what is found once and kept for all backends
/// that it is given to. `products` gets the names of the former.
ChooseAlgorithm prefer_own_kernel(std::set<std::string>& products);

constexpr CpuSide kCpu;
constexpr GpuSide kGpu;

constexpr DType kComputeTypes[] = {DType::f32, DType::bf16};

}  // namespace sinkscope::test
