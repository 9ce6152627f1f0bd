#include <random>

#include "engine/data/tokenizer.h"
#include "gpt2_files.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using namespace sinkscope::test;
using Ids = std::vector<std::int32_t>;

TEST_CASE("GPT-2's files give the published encodings") {
  const auto tokenizer = open_tokenizer(gpt2_files());
  CHECK(tokenizer->vocab_size() == 50257);
  CHECK(tokenizer->eos_id() == 50256);
  CHECK(tokenizer->encode("Hello world") == Ids{15496, 995});
  CHECK(tokenizer->encode(" Hello world") == Ids{18435, 995});
  CHECK(tokenizer->encode("Hello, my dog is cute") == Ids{15496, 11, 616, 3290, 318, 13779});
  // As the package gpt-3-encoder 1.1.4 encodes them.
  CHECK(tokenizer->encode("The attention sink isn't at token 0; it's at position 0.") ==
        Ids{464, 3241, 14595, 2125, 470, 379, 11241, 657, 26, 340, 338, 379, 2292, 657, 13});
  CHECK(tokenizer->encode("  two  blanks\n\n\tand a tab") == Ids{220, 734, 220, 698, 2283, 628, 197, 392, 257, 7400});
  CHECK(tokenizer->encode("caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80") ==
        Ids{66, 1878, 2634, 220, 40792, 23877, 229, 30325, 222});
  CHECK(tokenizer->encode("12345 x86_64 3.14") == Ids{10163, 2231, 2124, 4521, 62, 2414, 513, 13, 1415});
  std::mt19937 random(3);
  for (std::size_t round = 0; round < 100; ++round) {
    const std::string text = random_text(random, round * 5);
    REQUIRE(tokenizer->decode(tokenizer->encode(text)) == text);
  }
}
