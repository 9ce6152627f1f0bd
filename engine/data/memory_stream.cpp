#include "engine/data/memory_stream.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace sinkscope {

void MemoryStream::read(std::int64_t begin, std::span<std::int32_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  if (begin < 0 || begin > size() - count)
    throw std::out_of_range("tokens " + std::to_string(begin) + " to " + std::to_string(begin + count) +
                            " of a stream of " + std::to_string(size()));
  std::copy_n(tokens_.begin() + begin, count, out.begin());
}

}  // namespace sinkscope
