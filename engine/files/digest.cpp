#include "engine/files/digest.h"

#include <xxhash.h>

#include <new>
#include <vector>

#include "engine/files/input_file.h"

namespace sinkscope {
namespace {

std::string hexadecimal(const XXH128_hash_t& hash) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 15U];
  }
  return text;
}

}  // namespace

struct DigestStream::State {
  State() : xxh3(XXH3_createState(), &XXH3_freeState) {
    if (xxh3 == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(xxh3.get());
  }
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> xxh3;
};

DigestStream::DigestStream() : state_(std::make_unique<State>()) {}

DigestStream::~DigestStream() = default;

void DigestStream::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh3.get(), bytes.data(), bytes.size());
  size_ += static_cast<std::int64_t>(bytes.size());
}

FileDigest DigestStream::digest() const { return {size_, hexadecimal(XXH3_128bits_digest(state_->xxh3.get()))}; }

FileDigest digest_file(const std::filesystem::path& path) {
  InputFile input(path);
  DigestStream digest;
  std::vector<std::byte> buffer(kCopyBytes);
  for (auto bytes = input.read(buffer); !bytes.empty(); bytes = input.read(buffer)) digest.add(bytes);
  return digest.digest();
}

std::string hash_text(std::string_view text) { return hexadecimal(XXH3_128bits(text.data(), text.size())); }

}  // namespace sinkscope
