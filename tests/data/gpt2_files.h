#pragma once

#include <filesystem>

namespace sinkscope::test {

/// The folder of GPT-2's own encoder.json and vocab.bpe: the one that SINKSCOPE_GPT2_BPE names, else
/// the one that scripts/fetch_test_files fills.
std::filesystem::path gpt2_files();

}  // namespace sinkscope::test
