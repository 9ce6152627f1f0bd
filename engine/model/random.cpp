#include "engine/model/random.h"

#include <cmath>
#include <numbers>

namespace sinkscope {
namespace {

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

constexpr std::uint64_t kGamma = 0x9e3779b97f4a7c15ULL;

}  // namespace

std::uint64_t random_key(std::uint64_t seed, std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return mix(mix(seed + kGamma) ^ hash);
}

std::uint64_t random_bits(std::uint64_t key, std::uint64_t index) { return mix(key + (index + 1) * kGamma); }

double random_uniform(std::uint64_t key, std::uint64_t index) {
  return static_cast<double>(random_bits(key, index) >> 11) * 0x1.0p-53;
}

double random_normal(std::uint64_t key, std::uint64_t index) {
  const double u = 1.0 - random_uniform(key, 2 * index);  // in (0, 1]
  const double v = random_uniform(key, 2 * index + 1);
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace sinkscope
