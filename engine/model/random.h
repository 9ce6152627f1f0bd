// Counter-based random numbers: each value is a pure function of (key, index).
#pragma once

#include <cstdint>
#include <string_view>

namespace sinkscope {

/// A key for the stream `name` under `seed`: FNV-1a of the name mixed with the seed.
std::uint64_t random_key(std::uint64_t seed, std::string_view name);

/// 64 random bits: the SplitMix64 finaliser (Steele, Lea and Flood 2014) of key and index.
std::uint64_t random_bits(std::uint64_t key, std::uint64_t index);

/// Uniform in [0, 1), 53 bits.
double random_uniform(std::uint64_t key, std::uint64_t index);

/// Standard normal by Box and Muller (1958) from the uniforms 2*index and 2*index + 1.
double random_normal(std::uint64_t key, std::uint64_t index);

}  // namespace sinkscope
