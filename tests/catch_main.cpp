// The main function of tests that every machine can run.
#include "tests/skippable_main.h"

int main(int argc, char** argv) {
  return sinkscope::test::run_or_skip(argc, argv, [] { return std::string(); });
}
