#include "tests/catch.h"
#include "tests/files.h"
#include "tools/gpu_choice.h"

using namespace sinkscope;
using sinkscope::test::message_of;

TEST_CASE("GPUs are named as this process counts them, for processes that see one of them") {
  using Choices = std::vector<std::string>;
  CHECK(gpu_choices("0,2,1", nullptr, 4, "--devices") == Choices{"0", "2", "1"});
  // Of those that this process may see itself.
  CHECK(gpu_choices("1,0", "6,4", 2, "--devices") == Choices{"4", "6"});
  CHECK(gpu_choices("0,GPU-12ab", "GPU-77,3", 2, "--devices") == Choices{"GPU-77", "GPU-12ab"});
}

TEST_CASE("what is no GPU here is refused") {
  const auto message = [](const std::string& list, std::size_t count) {
    return message_of([&] { gpu_choices(list, nullptr, count, "--devices"); });
  };
  CHECK(message("0,x", 2) ==
        "--devices 0,x: expected numbers of GPUs, e.g. 0,1, or names as nvidia-smi -L has them; found \"x\"");
  CHECK(message("0,", 2) ==
        "--devices 0,: expected numbers of GPUs, e.g. 0,1, or names as nvidia-smi -L has them; found \"\"");
  CHECK(message("-1", 2) ==
        "--devices -1: expected numbers of GPUs, e.g. 0,1, or names as nvidia-smi -L has them; found \"-1\"");
  CHECK(message("0", 0) == "--devices 0: there is no GPU 0; this process sees none");
  CHECK(message("1", 1) == "--devices 1: there is no GPU 1; this process sees one, number 0");
  CHECK(message("4", 4) == "--devices 4: there is no GPU 4; this process sees 4, numbered from 0");
  CHECK(message("1,0,1", 2) == "--devices 1,0,1: 1 is given twice; more arms than one a GPU are --jobs");
}
