#include "engine/train/gradient_buckets.h"

#include <algorithm>

namespace sinkscope {

std::int64_t gradient_bucket(const Config& config) {
  return static_cast<std::int64_t>(config.ranks.bucket_megabytes * 1e6 / static_cast<double>(sizeof(float)));
}

GradientBuckets::GradientBuckets(Communicator& communicator, const Tensor& gradients, std::int64_t bucket)
    : communicator_(&communicator), gradients_(gradients), bucket_(std::max<std::int64_t>(bucket, 1)), end_(gradients.size()) {}

void GradientBuckets::ready(std::int64_t first) {
  while (end_ > 0 && std::max<std::int64_t>(end_ - bucket_, 0) >= first) {
    const std::int64_t begin = std::max<std::int64_t>(end_ - bucket_, 0);
    communicator_->start_all_reduce(gradients_.rows(begin, end_ - begin));
    end_ = begin;
  }
}

void GradientBuckets::finish() {
  ready(0);
  communicator_->finish();
  end_ = gradients_.size();
}

}  // namespace sinkscope
