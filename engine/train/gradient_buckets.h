// The gradients of a step, summed over the ranks in buckets.
#pragma once

#include <cstdint>

#include "engine/comm/communicator.h"
#include "engine/config/config.h"
#include "kernels/tensor.h"

namespace sinkscope {

/// Elements of a bucket, by ranks.bucket_megabytes.
std::int64_t gradient_bucket(const Config& config);

/// Buckets are cut from the end of the flat array, which a backward pass completes first, so that one is summed while
/// those before it are still computed. Every rank sums the same buckets in the same order, whatever it was told.
class GradientBuckets {
 public:
  /// `gradients` (P) f32; `communicator` must outlive the buckets. At least one element a bucket.
  GradientBuckets(Communicator& communicator, const Tensor& gradients, std::int64_t bucket);

  /// Nothing will be added to the elements from `first` on: their buckets begin to be summed.
  void ready(std::int64_t first);
  /// Sums what is left. Afterwards operations see the sums, and the next step begins.
  void finish();

 private:
  Communicator* communicator_;
  Tensor gradients_;
  std::int64_t bucket_;
  std::int64_t end_;  // of what is not summed yet
};

}  // namespace sinkscope
