#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "engine/optim/optimizer_share.h"
#include "tests/catch.h"
#include "tests/optim/small_model.h"

namespace sinkscope {
namespace {

TEST_CASE("blocks are dealt in equal parts of whole lines, and cover every section once") {
  const ParameterLayout layout(small_model());
  const int ranks = GENERATE(2, 3, 40);
  const std::int64_t most = GENERATE(1, 300, 1000000);
  INFO(ranks << " ranks, at most " << most);
  std::vector<int> times(static_cast<std::size_t>(layout.flat_size()));
  std::vector<std::int64_t> sizes;
  for (int rank = 0; rank < ranks; ++rank) {
    const OptimizerShare share(dealt_blocks(layout, ranks, most), rank);
    CHECK_FALSE(share.whole());
    std::int64_t place = 0;
    for (const DealtBlock& block : share.blocks()) {
      const OptimizerShare::Piece piece = share.piece(block);
      CHECK(piece.place == place);
      CHECK(share.before(piece.begin) == place);
      place += piece.size;
      for (std::int64_t i = 0; i < piece.size; ++i) ++times[static_cast<std::size_t>(piece.begin + i)];
      CHECK(piece.place % 64 == 0);
    }
    CHECK(place == share.size());
    CHECK(share.before(layout.flat_size()) == place);
    sizes.push_back(place);
  }
  CHECK(times == std::vector<int>(times.size(), 1));
  for (std::size_t rank = 1; rank < sizes.size(); ++rank) CHECK(sizes[rank] == sizes[1]);
  CHECK(sizes.front() - sizes.back() < 64 * ranks * std::ssize(layout.sections()));
  const OptimizerShare share(dealt_blocks(layout, ranks, most), 0);
  std::size_t blocks = 0;
  for (const Section& section : layout.sections()) {
    const std::span<const DealtBlock> within = share.blocks_of(section);
    blocks += within.size();
    for (std::size_t i = 0; i < within.size(); ++i) {
      const bool left = i == 0 && within[i].size < 64 * ranks;  // of the section
      CHECK((left || within[i].part * ranks == within[i].size));
      CHECK(within[i].size < most + 64 * ranks);
    }
  }
  CHECK(blocks == share.blocks().size());
  CHECK(OptimizerShare(1000).size() == 1000);
  CHECK(OptimizerShare(1000).whole());
  CHECK_THROWS_AS(OptimizerShare({{.begin = 0, .size = 10, .part = 5}, {.begin = 20, .size = 10, .part = 5}}, 0),
                  std::invalid_argument);
  CHECK_THROWS_AS(share.piece(DealtBlock{}), std::logic_error);
}

}  // namespace
}  // namespace sinkscope
