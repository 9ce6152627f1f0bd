#include "engine/data/shard.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "engine/data/mapped_file.h"
#include "engine/data/vocabulary.h"
#include "engine/files/new_file.h"

namespace sinkscope {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are read and written in place, little-endian");

constexpr std::array<char, 8> kMagic = {'S', 'I', 'N', 'K', 'S', 'H', 'R', 'D'};
constexpr std::uint32_t kShardVersion = 1;
constexpr std::int32_t kGpt2Magic = 20240520;
constexpr std::int32_t kGpt2Version = 1;
constexpr std::int64_t kGpt2HeaderBytes = 256 * 4;

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kShardVersion;
  std::uint32_t token_bytes = 0;
  std::uint64_t tokens = 0;
  std::uint64_t vocab_hash = 0;
  std::uint64_t checksum = 0;
  std::array<char, 24> padding{};
};
static_assert(sizeof(Header) == 64);

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what) {
  throw std::runtime_error(file.string() + ": " + what);
}

struct MappedShard {
  MappedFile file;
  std::int64_t begin = 0;  // first token's place in the stream
  std::int64_t tokens = 0;
  const std::byte* payload = nullptr;
  std::uint32_t token_bytes = 0;
};

void require_length(const std::filesystem::path& path, std::int64_t size, std::int64_t header, std::uint64_t tokens,
                    std::uint32_t token_bytes) {
  // Compared by division: a corrupt count must not overflow.
  const auto payload = static_cast<std::uint64_t>(size - header);
  if (payload % token_bytes == 0 && payload / token_bytes == tokens) return;
  const bool shorter = payload / token_bytes < tokens;
  fail(path, std::string(shorter ? "truncated" : "longer than its header says") + ": the header says " +
                 std::to_string(tokens) + " tokens of " + std::to_string(token_bytes) + " bytes, the file holds " +
                 std::to_string(payload) + " bytes of them");
}

MappedShard open_shard(const std::filesystem::path& path, bool verify, ShardInfo& info) {
  MappedShard shard{.file = MappedFile(path)};
  const std::byte* data = shard.file.data();
  const std::int64_t size = shard.file.size();
  std::int32_t magic = 0;
  if (size >= 4) std::memcpy(&magic, data, 4);
  info.file = path;
  if (magic == kGpt2Magic) {
    if (size < kGpt2HeaderBytes) fail(path, "truncated: shorter than its header of 1024 bytes");
    std::int32_t version = 0, tokens = 0;
    std::memcpy(&version, data + 4, 4);
    std::memcpy(&tokens, data + 8, 4);
    if (version != kGpt2Version) fail(path, "version " + std::to_string(version) + ", expected 1");
    if (tokens < 0) fail(path, "the header says " + std::to_string(tokens) + " tokens");
    shard.token_bytes = 2;
    shard.tokens = tokens;
    require_length(path, size, kGpt2HeaderBytes, static_cast<std::uint64_t>(tokens), 2);
    shard.payload = data + kGpt2HeaderBytes;
    info.checksum = XXH3_64bits(shard.payload, static_cast<std::size_t>(shard.tokens) * 2);
  } else {
    if (size < 8 || std::memcmp(data, kMagic.data(), kMagic.size()) != 0)
      fail(path, "not a token shard: expected the magic \"SINKSHRD\", or 20240520 of GPT-2-style shards");
    Header header;
    const auto header_bytes = static_cast<std::int64_t>(sizeof header);
    if (size < header_bytes) fail(path, "truncated: shorter than its header of 64 bytes");
    std::memcpy(&header, data, sizeof header);
    if (header.version != kShardVersion) fail(path, "version " + std::to_string(header.version) + ", expected 1");
    if (header.token_bytes != 2 && header.token_bytes != 4)
      fail(path, std::to_string(header.token_bytes) + " bytes a token, expected 2 or 4");
    require_length(path, size, header_bytes, header.tokens, header.token_bytes);
    shard.token_bytes = header.token_bytes;
    shard.tokens = static_cast<std::int64_t>(header.tokens);
    shard.payload = data + header_bytes;
    info.vocab_hash = header.vocab_hash;
    info.checksum = header.checksum;
    if (verify) {
      const std::uint64_t checksum = XXH3_64bits(shard.payload, static_cast<std::size_t>(size - header_bytes));
      if (checksum != header.checksum)
        fail(path, "corrupt: checksum " + to_hex(checksum) + ", the header says " + to_hex(header.checksum));
    }
  }
  info.tokens = shard.tokens;
  return shard;
}

/// Calls `use` with a pointer to the tokens in their own width.
template <class Use>
void with_tokens(const MappedShard& shard, Use&& use) {
  // Payloads begin at multiples of 64 in a page-aligned mapping, so both casts are aligned.
  if (shard.token_bytes == 2)
    use(reinterpret_cast<const std::uint16_t*>(shard.payload));
  else
    use(reinterpret_cast<const std::uint32_t*>(shard.payload));
}

void require_tokens_inside(const MappedShard& shard, const ShardInfo& info, std::int64_t vocab_size) {
  with_tokens(shard, [&](const auto* tokens) {
    for (std::int64_t i = 0; i < shard.tokens; ++i)
      if (static_cast<std::int64_t>(tokens[i]) >= vocab_size)
        fail(info.file, "token " + std::to_string(tokens[i]) + " at place " + std::to_string(i) +
                            " is outside the vocabulary of " + std::to_string(vocab_size));
  });
}

class MappedTokenStream final : public TokenStream {
 public:
  MappedTokenStream(const std::vector<std::filesystem::path>& files, bool verify, std::int64_t vocab_size) {
    for (const auto& path : files) {
      ShardInfo info;
      MappedShard shard = open_shard(path, verify, info);
      if (!shards_.empty() && info.vocab_hash != infos_.front().vocab_hash)
        fail(path, "its vocabulary (hash " + to_hex(info.vocab_hash) + ") is not that of " +
                       infos_.front().file.string() + " (hash " + to_hex(infos_.front().vocab_hash) + ")");
      if (vocab_size > 0) require_tokens_inside(shard, info, vocab_size);
      shard.begin = size_;
      size_ += shard.tokens;
      shards_.push_back(std::move(shard));
      infos_.push_back(std::move(info));
    }
    if (size_ == 0)
      throw std::runtime_error(infos_.empty() ? "a token stream needs at least one shard"
                                              : infos_.front().file.string() + ": the shards hold no tokens");
  }

  std::int64_t size() const override { return size_; }
  const std::vector<ShardInfo>& shards() const override { return infos_; }

  void read(std::int64_t begin, std::span<std::int32_t> out) const override {
    const auto count = static_cast<std::int64_t>(out.size());
    if (begin < 0 || begin > size_ || count > size_ - begin)
      throw std::out_of_range("tokens [" + std::to_string(begin) + ", " + std::to_string(begin + count) +
                              ") of a stream of " + std::to_string(size_));
    auto shard = std::upper_bound(shards_.begin(), shards_.end(), begin,
                                  [](std::int64_t place, const MappedShard& s) { return place < s.begin; });
    if (shard != shards_.begin()) --shard;
    for (std::int64_t done = 0; done < count; ++shard) {
      const std::int64_t from = begin + done - shard->begin;
      const std::int64_t part = std::min(count - done, shard->tokens - from);
      with_tokens(*shard, [&](const auto* tokens) {
        for (std::int64_t i = 0; i < part; ++i)
          out[static_cast<std::size_t>(done + i)] = static_cast<std::int32_t>(tokens[from + i]);
      });
      done += part;
    }
  }

 private:
  std::vector<MappedShard> shards_;
  std::vector<ShardInfo> infos_;
  std::int64_t size_ = 0;
};

}  // namespace

std::unique_ptr<TokenStream> open_token_stream(const std::vector<std::filesystem::path>& shards, bool verify) {
  return open_token_stream(shards, verify, 0);
}

std::unique_ptr<TokenStream> open_token_stream(const std::vector<std::filesystem::path>& shards, bool verify,
                                               std::int64_t vocab_size) {
  return std::make_unique<MappedTokenStream>(shards, verify, vocab_size);
}

struct ShardWriter::Shard {
  explicit Shard(const std::filesystem::path& path) : file(path), state(XXH3_createState()) {
    if (!state) throw std::bad_alloc();
    XXH3_64bits_reset(state.get());
    const Header unfilled;
    file.write(std::as_bytes(std::span(&unfilled, 1)));
    info.file = path;
  }
  struct StateFree {
    void operator()(XXH3_state_t* value) const { XXH3_freeState(value); }
  };
  NewFile file;
  std::unique_ptr<XXH3_state_t, StateFree> state;
  ShardInfo info;
  std::vector<std::byte> pending;
};

ShardWriter::ShardWriter(Options options) : options_(std::move(options)) {
  if (options_.shard_tokens < 1)
    throw std::runtime_error("a shard must hold at least 1 token, found " + std::to_string(options_.shard_tokens));
}

ShardWriter::~ShardWriter() = default;

void ShardWriter::append(std::span<const std::int32_t> tokens) {
  constexpr std::size_t kPending = std::size_t{1} << 20;  // bytes
  require_ids(tokens, options_.vocab_size);
  const bool narrow = options_.vocab_size <= 65536;
  for (const std::int32_t token : tokens) {
    if (shard_ && shard_->info.tokens == options_.shard_tokens) close_shard();
    if (!shard_) {
      const std::string number = std::to_string(done_.size());
      std::string name = options_.prefix + '_';
      name.append(number.size() < 5 ? 5 - number.size() : 0, '0');
      shard_ = std::make_unique<Shard>(options_.folder / (name + number + ".bin"));
    }
    for (int shift = 0; shift < (narrow ? 16 : 32); shift += 8)
      shard_->pending.push_back(static_cast<std::byte>(static_cast<std::uint32_t>(token) >> shift));
    ++shard_->info.tokens;
    if (shard_->pending.size() >= kPending) flush();
  }
}

void ShardWriter::flush() {
  shard_->file.write(shard_->pending);
  XXH3_64bits_update(shard_->state.get(), shard_->pending.data(), shard_->pending.size());
  shard_->pending.clear();
}

void ShardWriter::close_shard() {
  flush();
  Header header;
  header.token_bytes = options_.vocab_size <= 65536 ? 2 : 4;
  header.tokens = static_cast<std::uint64_t>(shard_->info.tokens);
  header.vocab_hash = options_.vocab_hash;
  header.checksum = XXH3_64bits_digest(shard_->state.get());
  shard_->file.overwrite(0, std::as_bytes(std::span(&header, 1)));
  shard_->file.finish();
  shard_->info.vocab_hash = header.vocab_hash;
  shard_->info.checksum = header.checksum;
  done_.push_back(std::move(shard_->info));
  shard_.reset();
}

std::vector<ShardInfo> ShardWriter::finish() {
  if (shard_) close_shard();
  return std::move(done_);
}

}  // namespace sinkscope
