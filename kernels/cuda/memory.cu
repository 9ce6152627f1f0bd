// The device itself: buffers, copies, conversion between f32 and the compute dtype.
#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "kernels/backend_memory.h"
#include "kernels/check.h"
#include "kernels/cuda/attention_layout.cuh"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/sm90/attention.h"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

template <class To, class From>
__global__ void convert_kernel(To* dst, const From* src, std::int64_t size) {
  const std::int64_t stride = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += stride)
    dst[i] = from_float<To>(to_float(src[i]));
}

constexpr std::size_t kAlignment = 256;

/// Arrays that a launch of zero_kernel sets to zero, a row of blocks each.
struct ZeroArrays {
  static constexpr int kMost = 128;
  float* at[kMost];
  std::int32_t size[kMost];
};
constexpr int kZeroThreads = 256, kZeroBlocks = 8;  // blocks of an array
constexpr std::int64_t kLongestZeroed = 1 << 20;    // elements; more are a memset of their own, at the rate of memory

__global__ void __launch_bounds__(kZeroThreads) zero_kernel(const __grid_constant__ ZeroArrays arrays) {
  float* array = arrays.at[blockIdx.y];
  const int size = arrays.size[blockIdx.y], stride = kZeroBlocks * kZeroThreads;
  for (int i = static_cast<int>(blockIdx.x) * kZeroThreads + static_cast<int>(threadIdx.x); i < size; i += stride)
    array[i] = 0.0F;
}

}  // namespace
}  // namespace cuda

// CUDA waits for the stream where it copies more than 64 KiB of pageable memory; larger copies than this are of no
// step.
constexpr std::size_t kMostStaged = std::size_t{4} << 20;

/// Pinned memory of the host that the device copies to, or from, while the host goes on.
struct CudaOps::PinnedCopy {
  explicit PinnedCopy(std::size_t size) : bytes(size) {
    check_cuda(cudaMallocHost(&data, size), "cudaMallocHost");
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    there.reset(event);
  }
  PinnedCopy(const PinnedCopy&) = delete;
  PinnedCopy& operator=(const PinnedCopy&) = delete;
  ~PinnedCopy() { cudaFreeHost(data); }

  std::size_t bytes;
  void* data = nullptr;
  CudaEvent there;
};

CudaOps::CudaOps(const CudaOptions& options)
    : device_(options.device), real_(options.compute), choose_(options.choose), worth_timing_(options.worth_timing) {
  if (real_ != DType::f32 && real_ != DType::bf16)
    throw std::invalid_argument(std::string("make_cuda_ops: compute is ") + name_of(real_) + ", expected f32 or bf16");
  std::string why;
  const auto devices = static_cast<int>(cuda_devices(&why).size());
  if (device_ < 0 || device_ >= devices)
    throw std::runtime_error("make_cuda_ops: there is no GPU " + std::to_string(device_) + ": " +
                             (devices == 0 ? why : "this machine has " + std::to_string(devices)));
  check_cuda(cudaSetDevice(device_), "cudaSetDevice");
  check_cuda(cudaGetDeviceProperties(&properties_, device_), "cudaGetDeviceProperties");
  if (properties_.major < 8)
    throw std::runtime_error("make_cuda_ops: GPU " + std::to_string(device_) + ", " + properties_.name +
                             ", has compute capability " + std::to_string(properties_.major) + "." +
                             std::to_string(properties_.minor) + "; expected at least 8.0");
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  check_blas(cublasLtCreate(&blas_), "cublasLtCreate");
  attention_counters_ = allocate(cuda::sm90::kCounterBytes);
  check_cuda(cudaMemsetAsync(attention_counters_.get(), 0, cuda::sm90::kCounterBytes, stream_), "cudaMemset");
  blas_workspace_ = allocate(kCudaWorkspace);
  blas_workspace_bytes_ = kCudaWorkspace;
}

CudaOps::~CudaOps() {
  cudaStreamSynchronize(stream_);
  plans_.clear();
  pinned_copies_.clear();
  chunk_tables_.clear();
  rotary_tables_.clear();
  mark_events_.clear();
  scratch_.reset();
  blas_workspace_.reset();
  attention_counters_.reset();
  if (blas_ != nullptr) cublasLtDestroy(blas_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

bool CudaOps::has_sm90() const {
#ifdef SINKSCOPE_SM90A
  return properties_.major == 9 && properties_.minor == 0;
#else
  return false;
#endif
}

bool CudaOps::has_sm90_attention(std::int64_t head_dim) const {
  return has_sm90() && (head_dim == 64 || head_dim == 128);
}

std::string CudaOps::device_name() const { return "cuda"; }

std::string CudaOps::description() const {
  return std::string(real_ == DType::bf16 ? "bf16" : "fp32") + ", " + properties_.name + ", " + cuda_description();
}

Buffer CudaOps::allocate(std::size_t bytes) {
  void* data = nullptr;
  const std::size_t rounded = std::max(bytes, cuda::kAlignment);
  const cudaError_t status = cudaMalloc(&data, rounded);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw std::runtime_error(std::string(properties_.name) + ": " + std::to_string(rounded >> 20) +
                             " MiB of device memory were asked for and " + std::to_string(free >> 20) + " of " +
                             std::to_string(total >> 20) + " MiB are free");
  }
  check_cuda(status, "cudaMalloc");
  peak_memory_ = peak_memory();
  return Buffer(static_cast<std::byte*>(data), BufferDeleter{this});
}

void CudaOps::release(std::byte* data) noexcept { cudaFree(data); }

std::optional<std::size_t> CudaOps::memory_available() const {
  std::size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free + blas_workspace_bytes_ + scratch_bytes_;
}

void CudaOps::reserve(const BackendExtents& extents) {
  reserved_ = false;
  scratch(cuda_memory(extents).scratch);
  reserved_ = true;
  if (extents.rope_theta > 0) rotary_table(extents.rope_theta, extents.rotary_pairs(), extents.longest());
  chunk_table("reserve", extents.segments, extents.flat_size);
}

std::byte* CudaOps::scratch(std::size_t bytes) {
  if (bytes > scratch_bytes_) {
    if (reserved_)
      throw std::logic_error("CUDA backend: an operation asks for " + std::to_string(bytes) +
                             " bytes of scratch memory, and " + std::to_string(scratch_bytes_) + " were reserved");
    check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    scratch_.reset();
    scratch_bytes_ = 0;
    scratch_ = allocate(bytes);
    scratch_bytes_ = bytes;
    ++moves_;
  }
  return scratch_.get();
}

void CudaOps::copy_from_host(const Tensor& dst, const void* src) {
  const Check check("copy_from_host");
  if (dst.bytes() == 0) return;
  check.that(static_cast<bool>(dst), "dst", "is not given");
  check.that(src != nullptr, "src", "is null");
  // Staged before the call returns, so that the caller may change it at once.
  if (dst.bytes() > kMostStaged) {
    check_cuda(cudaMemcpyAsync(dst.data, src, dst.bytes(), cudaMemcpyHostToDevice, stream_), "copy_from_host");
    return;
  }
  const std::shared_ptr<PinnedCopy> copy = pinned(dst.bytes(), true);
  std::memcpy(copy->data, src, dst.bytes());
  check_cuda(cudaMemcpyAsync(dst.data, copy->data, dst.bytes(), cudaMemcpyHostToDevice, stream_), "copy_from_host");
  check_cuda(cudaEventRecord(copy->there.get(), stream_), "copy_from_host");
}

/// The smallest that fits of those that nobody holds, `idle`: that the device is done with. Where there is none a new
/// one, or of many that the device is not done with one that it then is.
std::shared_ptr<CudaOps::PinnedCopy> CudaOps::pinned(std::size_t bytes, bool idle) {
  constexpr int kMostBusy = 8;
  std::shared_ptr<PinnedCopy> copy, busy;
  int count = 0;  // of those that are busy
  for (const std::shared_ptr<PinnedCopy>& known : pinned_copies_) {
    if (known.use_count() != 1 || known->bytes < bytes || (copy && known->bytes >= copy->bytes)) continue;
    if (idle) {
      const cudaError_t status = cudaEventQuery(known->there.get());
      if (status == cudaErrorNotReady) {
        static_cast<void>(cudaGetLastError());  // it is no error
        ++count;
        if (!busy) busy = known;
        continue;
      }
      check_cuda(status, "copy_from_host");
    }
    copy = known;
  }
  if (!copy && count >= kMostBusy) {
    check_cuda(cudaEventSynchronize(busy->there.get()), "copy_from_host");
    copy = busy;
  }
  if (!copy) copy = pinned_copies_.emplace_back(std::make_shared<PinnedCopy>(bytes));
  return copy;
}

void CudaOps::copy_to_host(void* dst, const Tensor& src) {
  const Check check("copy_to_host");
  if (src.bytes() == 0) return;
  check.that(static_cast<bool>(src), "src", "is not given");
  check.that(dst != nullptr, "dst", "is null");
  check_cuda(cudaMemcpyAsync(dst, src.data, src.bytes(), cudaMemcpyDeviceToHost, stream_), "copy_to_host");
  check_cuda(cudaStreamSynchronize(stream_), "copy_to_host");
}

std::function<void()> CudaOps::copy_to_host_later(void* dst, const Tensor& src) {
  const Check check("copy_to_host_later");
  if (src.bytes() == 0) return [] {};
  check.that(static_cast<bool>(src), "src", "is not given");
  check.that(dst != nullptr, "dst", "is null");
  const std::shared_ptr<PinnedCopy> copy = pinned(src.bytes(), false);
  check_cuda(cudaMemcpyAsync(copy->data, src.data, src.bytes(), cudaMemcpyDeviceToHost, stream_), "copy_to_host_later");
  check_cuda(cudaEventRecord(copy->there.get(), stream_), "copy_to_host_later");
  return [copy, dst, bytes = src.bytes()] {
    check_cuda(cudaEventSynchronize(copy->there.get()), "copy_to_host_later");
    std::memcpy(dst, copy->data, bytes);
  };
}

void CudaOps::copy(const Tensor& dst, const Tensor& src) {
  const Check check("copy");
  check.that(static_cast<bool>(dst), "dst", "is not given");
  check.that(static_cast<bool>(src), "src", "is not given");
  check.that(dst.dtype == src.dtype && dst.size() == src.size(), "dst",
             "is " + describe(dst) + ", expected the dtype and size of src, " + describe(src));
  check_cuda(cudaMemcpyAsync(dst.data, src.data, dst.bytes(), cudaMemcpyDeviceToDevice, stream_), "copy");
}

void CudaOps::zero(const Tensor& dst) {
  if (dst.bytes() == 0) return;
  Check("zero").that(static_cast<bool>(dst), "dst", "is not given");
  check_cuda(cudaMemsetAsync(dst.data, 0, dst.bytes(), stream_), "zero");
}

void CudaOps::zero_each(std::span<const Tensor> arrays) {
  cuda::ZeroArrays some;
  unsigned count = 0;
  const auto launch = [&] {
    if (count == 0) return;
    cuda::zero_kernel<<<dim3(cuda::kZeroBlocks, count), cuda::kZeroThreads, 0, stream_>>>(some);
    check_launch("zero_each");
    count = 0;
  };
  for (const Tensor& array : arrays) {
    Check("zero_each").shape("arrays", array, DType::f32, {array.size()});
    if (array.size() > cuda::kLongestZeroed) {
      zero(array);
    } else if (array.size() > 0) {
      some.at[count] = cuda::pointer<float>(array);
      some.size[count++] = static_cast<std::int32_t>(array.size());
      if (count == cuda::ZeroArrays::kMost) launch();
    }
  }
  launch();
}

void CudaOps::convert(const Tensor& dst, const Tensor& src) {
  const Check check("convert");
  check.that(static_cast<bool>(dst), "dst", "is not given");
  check.that(static_cast<bool>(src), "src", "is not given");
  const auto known = [](DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; };
  check.that(known(dst.dtype) && known(src.dtype) && dst.size() == src.size(), "dst",
             "is " + describe(dst) + ", expected f32 or bf16 of the size of src, " + describe(src));
  if (dst.dtype == src.dtype) return copy(dst, src);
  const std::int64_t size = src.size();
  if (size == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>((size + 255) / 256, 65536));
  if (dst.dtype == DType::bf16)
    cuda::convert_kernel<<<blocks, 256, 0, stream_>>>(cuda::pointer<cuda::bf16>(dst), cuda::pointer<const float>(src),
                                                      size);
  else
    cuda::convert_kernel<<<blocks, 256, 0, stream_>>>(cuda::pointer<float>(dst), cuda::pointer<const cuda::bf16>(src),
                                                      size);
  check_launch("convert");
}

void CudaOps::synchronize() { check_cuda(cudaStreamSynchronize(stream_), "synchronize"); }

std::string cuda_description() {
  int runtime = 0;
  check_cuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return "CUDA " + std::to_string(runtime / 1000) + "." + std::to_string(runtime % 1000 / 10) + ", cuBLASLt " +
         std::to_string(cublasLtGetVersion());
}

std::vector<std::string> cuda_devices(std::string* why_none) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    count = 0;
    int driver = 0;
    const bool installed = cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0;
    if (why_none != nullptr) *why_none = installed ? cudaGetErrorString(status) : "there is no NVIDIA driver";
  } else if (count == 0 && why_none != nullptr) {
    *why_none = "the driver reports none";
  }
  std::vector<std::string> names;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    names.emplace_back(properties.name);
  }
  return names;
}

std::unique_ptr<Ops> make_cuda_ops(const CudaOptions& options) { return std::make_unique<CudaOps>(options); }

}  // namespace sinkscope
