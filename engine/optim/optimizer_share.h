// How flat arrays are dealt to the ranks of a run, and what one of them has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/model/parameters.h"
#include "kernels/ops.h"

namespace sinkscope {

/// Elements of flat arrays that are dealt in equal parts: rank r has the r-th `part` of them, as far as there are that
/// many.
struct DealtBlock {
  std::int64_t begin = 0, size = 0;
  std::int64_t part = 0;
};

/// Blocks of about `most` elements, each of one section, in the order of the flat arrays. Parts are whole lines of
/// memory, as parameters are aligned, and the same for every rank; what is left over of a section is its first block,
/// rank 0's.
std::vector<DealtBlock> dealt_blocks(const ParameterLayout& layout, int ranks, std::int64_t most);

/// What one rank has, kept one piece behind the other.
class OptimizerShare {
 public:
  /// All of them.
  explicit OptimizerShare(std::int64_t flat_size);
  /// Of blocks that cover the flat arrays.
  OptimizerShare(std::vector<DealtBlock> blocks, int rank);

  bool whole() const { return whole_; }
  std::int64_t size() const { return places_.back(); }
  const std::vector<DealtBlock>& blocks() const { return blocks_; }
  /// Those that lie in a stretch of the flat arrays, from its first element to its last.
  std::span<const DealtBlock> blocks_of(const Section& section) const;
  /// The rank's elements of a block: where they begin in the share and in the flat arrays, and how many there are.
  struct Piece {
    std::int64_t place = 0, begin = 0, size = 0;
  };
  /// `block`: as one of blocks().
  Piece piece(const DealtBlock& block) const;
  /// How many elements of the share lie before an element of the flat arrays.
  std::int64_t before(std::int64_t element) const;
  /// What it has of each segment, counted from its begin: as many segments, some of them empty.
  std::vector<Segment> of(const std::vector<Segment>& segments) const;

 private:
  std::vector<DealtBlock> blocks_;
  std::vector<std::int64_t> places_;  // of each block's piece, and the size of all
  int rank_;
  bool whole_;
};

}  // namespace sinkscope
