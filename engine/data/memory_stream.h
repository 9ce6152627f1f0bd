// Tokens held in memory as a stream.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/data/dataset.h"

namespace sinkscope {

class MemoryStream final : public TokenStream {
 public:
  explicit MemoryStream(std::vector<std::int32_t> tokens) : tokens_(std::move(tokens)) {}
  std::int64_t size() const override { return static_cast<std::int64_t>(tokens_.size()); }
  void read(std::int64_t begin, std::span<std::int32_t> out) const override;
  const std::vector<ShardInfo>& shards() const override { return shards_; }
  const std::vector<std::int32_t>& tokens() const { return tokens_; }

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<ShardInfo> shards_;  // none
};

}  // namespace sinkscope
