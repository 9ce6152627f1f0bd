#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rotary.cuh"
#include "kernels/cuda/vec.cuh"

namespace sinkscope {
namespace cuda {
namespace {

/// Thread per eight pairs (d, d + half) of one head of one row.
template <bool Aligned, class T>
__global__ void rope_kernel(T* qkv, Rotary rotary, std::int64_t rows, int row_heads, int heads, int head_dim) {
  const int half = rotary.half;
  const int vectors = (half + kVector - 1) / kVector;
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows * heads * vectors) return;
  const auto d = static_cast<int>(i % vectors) * kVector;
  const std::int64_t head = i / vectors % heads, row = i / vectors / heads;
  const int left = half - d;
  T* low = qkv + (row * row_heads + head) * head_dim + d;
  T* high = low + half;
  const float2* angles = rotary.angles(row) + d;
  float first[kVector], second[kVector], rotated[kVector];
  load_some<Aligned>(low, left, first);
  load_some<Aligned>(high, left, second);
  float cosine[kVector], sine[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    const float2 angle = j < left ? angles[j] : make_float2(1, 0);
    cosine[j] = angle.x;
    sine[j] = rotary.sign * angle.y;
    rotated[j] = first[j] * cosine[j] - second[j] * sine[j];
  }
  store_some<Aligned>(low, left, rotated);
#pragma unroll
  for (int j = 0; j < kVector; ++j) rotated[j] = second[j] * cosine[j] + first[j] * sine[j];
  store_some<Aligned>(high, left, rotated);
}

}  // namespace
}  // namespace cuda

const float2* CudaOps::rotary_table(double theta, std::int64_t half, std::int64_t length) {
  RotaryTable* found = nullptr;
  for (RotaryTable& table : rotary_tables_)
    if (table.theta == theta && table.half == half) found = &table;
  if (found == nullptr) {
    found = &rotary_tables_.emplace_back();
    found->theta = theta;
    found->half = half;
  }
  if (found->length < length) {
    std::vector<float2> values(static_cast<std::size_t>(length * half));
    for (std::int64_t t = 0; t < length; ++t)
      for (std::int64_t d = 0; d < half; ++d) {
        const double angle =
            static_cast<double>(t) * std::pow(theta, -static_cast<double>(d) / static_cast<double>(half));
        values[static_cast<std::size_t>(t * half + d)] = {static_cast<float>(std::cos(angle)),
                                                          static_cast<float>(std::sin(angle))};
      }
    synchronize();  // nobody reads the old table any more
    found->values = allocate(values.size() * sizeof(float2));
    ++moves_;
    check_cuda(cudaMemcpyAsync(found->values.get(), values.data(), values.size() * sizeof(float2),
                               cudaMemcpyHostToDevice, stream_), "rope: table");
    found->length = length;
  }
  return reinterpret_cast<const float2*>(found->values.get());
}

cuda::Rotary CudaOps::rotary(const Rotation& rotation, std::int64_t width, std::int64_t length, bool inverse) {
  const std::int64_t half = width / 2;
  return {rotary_table(rotation.theta, half, std::max(length, rotation.first_index + 1)), static_cast<int>(half),
          inverse ? -1.0F : 1.0F, length, rotation.first_index};
}

void CudaOps::rope(const Rope& args) {
  const Check check("rope");
  const std::int64_t width = check_rope(check, args, real_), half = width / 2;
  const std::int64_t B = args.qkv.extent(0), T = args.qkv.extent(1), heads = args.qkv.extent(2), D = args.qkv.extent(3);
  const std::int64_t items = B * T * args.heads * cuda::ceil_div(half, cuda::kVector);
  if (items == 0) return;
  const cuda::Rotary angles = rotary({width, args.theta, args.first_index}, width, T, args.inverse);
  cuda::with_real(real_, [&]<class R>(R) {
    auto* qkv = cuda::pointer<R>(args.qkv);
    cuda::with_bool(cuda::vector_rows(half, qkv) && cuda::vector_rows(D, qkv), [&](auto aligned) {
      cuda::rope_kernel<decltype(aligned)::value><<<cuda::grid_of(items, 256, items), 256, 0, stream_>>>(
          qkv, angles, B * T, static_cast<int>(heads), args.heads, static_cast<int>(D));
    });
  });
  check_launch("rope");
}

}  // namespace sinkscope
