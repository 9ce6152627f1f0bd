#include "engine/optim/optimizer_share.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace sinkscope {
namespace {

constexpr std::int64_t kLine = 64;  // elements, as parameters are aligned

std::int64_t round_up(std::int64_t x, std::int64_t unit) { return (x + unit - 1) / unit * unit; }

}  // namespace

std::vector<DealtBlock> dealt_blocks(const ParameterLayout& layout, int ranks, std::int64_t most) {
  const std::int64_t unit = ranks * kLine;
  std::vector<DealtBlock> blocks;
  for (const Section& section : layout.sections()) {
    const std::int64_t even = section.size / unit * unit, left = section.size - even;
    if (left > 0) blocks.push_back({.begin = section.begin, .size = left, .part = left});
    const std::int64_t wanted = std::max<std::int64_t>(1, (even + most - 1) / most);
    const std::int64_t size = round_up((even + wanted - 1) / wanted, unit);
    for (std::int64_t at = 0; at < even; at += size) {
      const std::int64_t cut = std::min(size, even - at);
      blocks.push_back({.begin = section.begin + left + at, .size = cut, .part = cut / ranks});
    }
  }
  return blocks;
}

OptimizerShare::OptimizerShare(std::int64_t flat_size)
    : blocks_{{.begin = 0, .size = flat_size, .part = flat_size}}, places_{0, flat_size}, rank_(0), whole_(true) {}

OptimizerShare::OptimizerShare(std::vector<DealtBlock> blocks, int rank)
    : blocks_(std::move(blocks)), places_{0}, rank_(rank), whole_(false) {
  std::int64_t end = 0;
  for (const DealtBlock& block : blocks_) {
    if (block.begin != end || block.size <= 0 || block.part <= 0)
      throw std::invalid_argument("OptimizerShare: blocks that do not lie one behind the other");
    end += block.size;
    const std::int64_t first = std::min(block.size, rank * block.part);
    places_.push_back(places_.back() + std::min(block.part, block.size - first));
  }
}

std::span<const DealtBlock> OptimizerShare::blocks_of(const Section& section) const {
  const auto first = std::ranges::lower_bound(blocks_, section.begin, {}, &DealtBlock::begin);
  const auto last = std::ranges::lower_bound(blocks_, section.begin + section.size, {}, &DealtBlock::begin);
  return {first, last};
}

OptimizerShare::Piece OptimizerShare::piece(const DealtBlock& block) const {
  const auto found = std::ranges::lower_bound(blocks_, block.begin, {}, &DealtBlock::begin);
  if (found == blocks_.end() || found->begin != block.begin || found->size != block.size)
    throw std::logic_error("OptimizerShare: a block of another share");
  const auto index = static_cast<std::size_t>(found - blocks_.begin());
  const std::int64_t first = std::min(block.size, rank_ * block.part);
  return {.place = places_[index], .begin = block.begin + first, .size = places_[index + 1] - places_[index]};
}

std::int64_t OptimizerShare::before(std::int64_t element) const {
  const auto behind = std::ranges::upper_bound(blocks_, element, {}, &DealtBlock::begin);
  if (behind == blocks_.begin()) return 0;
  const Piece last = piece(*(behind - 1));
  return last.place + std::clamp<std::int64_t>(element - last.begin, 0, last.size);
}

std::vector<Segment> OptimizerShare::of(const std::vector<Segment>& segments) const {
  std::vector<Segment> within;
  for (const Segment& segment : segments) {
    const std::int64_t begin = before(segment.begin);
    within.push_back({.begin = begin, .size = before(segment.begin + segment.size) - begin, .decay = segment.decay});
  }
  return within;
}

}  // namespace sinkscope
