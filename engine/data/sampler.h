// Windows of the stream, in a deterministic order, with the BOS policy applied.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/config/enums.h"
#include "engine/data/dataset.h"

namespace sinkscope {

/// One batch on the host, row-major.
struct Batch {
  std::int64_t sequences = 0;            // B
  std::int64_t length = 0;               // T
  std::vector<std::int32_t> inputs;      // (B, T)
  std::vector<std::int32_t> targets;     // (B, T): the next token
  std::vector<std::uint8_t> common;      // (B, T): 1 where every policy of `common_targets` predicts this target
};

/// Cuts the stream into windows: window i begins at stream offset i*T, whatever the policy.
/// none:     inputs s[o..o+T-1],          targets s[o+1..o+T]
/// sequence: inputs BOS, s[o..o+T-2],     targets s[o..o+T-1]
/// document: as none, with BOS inserted before every token that begins a document (offset 0, or
///           after EOS) until T inputs and the last target are filled.
/// A target counts as common when it is the same stream token that all the policies predict in
/// their window i; an inserted BOS never does.
class Windows {
 public:
  struct Options {
    std::int64_t length = 0;  // T
    BosPolicy bos = BosPolicy::none;
    std::int32_t bos_id = -1;
    std::int32_t eos_id = -1;
    std::vector<BosPolicy> common_targets;
  };
  /// Throws std::runtime_error when the stream is shorter than one window, or the policy needs a
  /// BOS id that is not there.
  Windows(const TokenStream& stream, const Options& options);

  std::int64_t count() const;
  /// Writes window `index` as row `row` of `batch` (sized by the caller with `resize`).
  void fill(std::int64_t index, std::int64_t row, Batch& batch) const;
  void resize(Batch& batch, std::int64_t sequences) const;

 private:
  const TokenStream* stream_;
  Options options_;
};

/// A pseudo-random permutation of [0, count) for each (seed, epoch), computed without a table, so
/// that the place in the data is one number: sample g is window permute(g % count) of epoch
/// g / count. Exact resume needs only g.
class ShuffledOrder {
 public:
  ShuffledOrder(std::int64_t count, std::uint64_t seed);
  std::int64_t window(std::int64_t sample) const;
  std::int64_t epoch(std::int64_t sample) const;

 private:
  std::int64_t count_;
  std::uint64_t seed_;
};

}  // namespace sinkscope
