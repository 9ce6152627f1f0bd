#include "engine/data/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <stdexcept>
#include <string>

namespace sinkscope {
namespace {

/// Half-open range of stream offsets.
struct OffsetRange {
  std::int64_t begin;
  std::int64_t end;
};

/// Does token `index` of `tokens` begin a document? `previous` is the stream's token before
/// tokens[0]; the stream's first token has none and begins one.
bool begins_document(std::span<const std::int32_t> tokens, std::int64_t index, bool has_previous,
                     std::int32_t previous, std::int32_t eos_id) {
  if (index == 0) return !has_previous || (eos_id >= 0 && previous == eos_id);
  return eos_id >= 0 && tokens[static_cast<std::size_t>(index - 1)] == eos_id;
}

/// Its first shard, and how many there are beside it.
std::string name_of(const TokenStream& stream) {
  const std::vector<ShardInfo>& shards = stream.shards();
  if (shards.empty()) return "the token stream";
  const std::string others = shards.size() > 1 ? " and " + std::to_string(shards.size() - 1) + " more" : "";
  return shards.front().file.string() + others;
}

/// The last finalizer of MurmurHash3 as improved by Stafford ("mix 13", the one of SplitMix64).
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

Windows::Windows(const TokenStream& stream, const Options& options) : stream_(&stream), options_(options) {
  if (options_.length < 1)
    throw std::runtime_error("the window length must be at least 1, found " + std::to_string(options_.length));
  if (options_.bos != BosPolicy::none && options_.bos_id < 0)
    throw std::runtime_error(
        "this BOS policy needs a BOS id, and the dataset has none; set data.bos_id or use data.bos = \"none\"");
  if (options_.bos == BosPolicy::document && options_.eos_id < 0)
    throw std::runtime_error(
        "data.bos = \"document\" needs an EOS id to find the documents, and the dataset has none; set data.eos_id");
  if (count() < 1)
    throw std::runtime_error(name_of(stream) + ": is shorter than one window: train.sequence_length (" +
                             std::to_string(options_.length) + ") takes " + std::to_string(options_.length + 1) +
                             " tokens, found " + std::to_string(stream.size()));
}

// Policy `none` reads furthest: s[o..o+T]. Counting by it gives every policy the same windows.
std::int64_t Windows::count() const {
  return stream_->size() < 1 ? 0 : (stream_->size() - 1) / options_.length;
}

void Windows::resize(Batch& batch, std::int64_t sequences) const {
  batch.sequences = sequences;
  batch.length = options_.length;
  const auto elements = static_cast<std::size_t>(sequences * options_.length);
  batch.inputs.resize(elements);
  batch.targets.resize(elements);
  batch.common.resize(elements);
}

void Windows::fill(std::int64_t index, std::int64_t row, Batch& batch) const {
  const std::int64_t length = options_.length;  // T
  if (index < 0 || index >= count())
    throw std::out_of_range("window " + std::to_string(index) + " of " + std::to_string(count()));
  if (row < 0 || row >= batch.sequences || batch.length != length)
    throw std::out_of_range("row " + std::to_string(row) + " of a batch of " + std::to_string(batch.sequences) + " x " +
                            std::to_string(batch.length) + ", windows of " + std::to_string(length));

  const std::int64_t origin = index * length;  // o
  thread_local std::vector<std::int32_t> tokens;  // s[o..o+T]; kept, so that filling does not allocate
  tokens.resize(static_cast<std::size_t>(length + 1));
  stream_->read(origin, tokens);
  const bool has_previous = origin > 0;
  std::int32_t previous = -1;
  if (has_previous) stream_->read(origin - 1, std::span(&previous, 1));
  const auto begins = [&](std::int64_t j) {
    return begins_document(tokens, j, has_previous, previous, options_.eos_id);
  };

  // Stream offsets, relative to o, that each policy predicts; always one contiguous range.
  const auto predicted = [&](BosPolicy policy) -> OffsetRange {
    if (policy == BosPolicy::none) return {1, length + 1};
    if (policy == BosPolicy::sequence) return {0, length};
    // T+1 places hold the tokens with their BOS; the first place is an input only.
    std::int64_t places = 0, end = 0;
    while (places <= length) {
      places += begins(end) ? 2 : 1;
      if (places <= length + 1) ++end;
    }
    return {begins(0) ? 0 : 1, end};
  };
  OffsetRange common{0, length + 1};
  for (const BosPolicy policy : options_.common_targets) {
    const OffsetRange range = predicted(policy);
    common.begin = std::max(common.begin, range.begin);
    common.end = std::min(common.end, range.end);
  }
  const auto is_common = [&](std::int64_t j) {
    return static_cast<std::uint8_t>(j >= common.begin && j < common.end);
  };

  const std::int64_t first = row * length;
  const auto inputs =
      std::span(batch.inputs).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(length));
  const auto targets =
      std::span(batch.targets).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(length));
  const auto mask = std::span(batch.common).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(length));
  // The place p of the sequence of T+1 holds `token`: input p, and target of input p-1.
  std::int64_t place = 0;
  const auto put = [&](std::int32_t token, std::uint8_t counts) {
    if (place > length) return;
    if (place < length) inputs[static_cast<std::size_t>(place)] = token;
    if (place > 0) {
      targets[static_cast<std::size_t>(place - 1)] = token;
      mask[static_cast<std::size_t>(place - 1)] = counts;
    }
    ++place;
  };
  if (options_.bos == BosPolicy::sequence) put(options_.bos_id, 0);
  for (std::int64_t j = 0; place <= length; ++j) {
    if (options_.bos == BosPolicy::document && begins(j)) put(options_.bos_id, 0);
    put(tokens[static_cast<std::size_t>(j)], is_common(j));
  }
}

ShuffledOrder::ShuffledOrder(std::int64_t count, std::uint64_t seed) : count_(count), seed_(seed) {
  if (count < 1) throw std::runtime_error("an order needs at least one window, found " + std::to_string(count));
}

std::int64_t ShuffledOrder::epoch(std::int64_t sample) const {
  if (sample < 0) throw std::out_of_range("sample " + std::to_string(sample));
  return sample / count_;
}

// An alternating unbalanced Feistel network over [0, 2^bits), 2^bits the least power of two not below the
// count; values outside [0, count) walk along their cycle until they are inside (Black and Rogaway
// 2002, "Ciphers with Arbitrary Finite Domains"). At most two steps are expected.
std::int64_t ShuffledOrder::window(std::int64_t sample) const {
  const auto key =
      mix(seed_ + 0x9e3779b97f4a7c15ULL) + mix(static_cast<std::uint64_t>(epoch(sample)) ^ 0xd1b54a32d192ed03ULL);
  const int bits = std::max(2, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(count_ - 1))));
  const int low_bits = bits / 2;
  const int high_bits = bits - low_bits;
  const std::uint64_t low_mask = (std::uint64_t{1} << low_bits) - 1;
  const std::uint64_t high_mask = (std::uint64_t{1} << high_bits) - 1;
  // Few bits leave few round functions, so small domains get more rounds.
  const std::uint64_t rounds = bits <= 12 ? 24 : 8;

  auto value = static_cast<std::uint64_t>(sample % count_);
  do {
    std::uint64_t low = value & low_mask;
    std::uint64_t high = value >> low_bits;
    for (std::uint64_t round = 0; round < rounds; ++round) {
      const std::uint64_t round_key = mix(key + (round + 1) * 0x9e3779b97f4a7c15ULL);
      if (round % 2 == 0)
        high ^= mix(low + round_key) & high_mask;
      else
        low ^= mix(high + round_key) & low_mask;
    }
    value = (high << low_bits) | low;
  } while (value >= static_cast<std::uint64_t>(count_));
  return static_cast<std::int64_t>(value);
}

}  // namespace sinkscope
