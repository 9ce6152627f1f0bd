// How far apart two runs are.
#pragma once

#include <filesystem>

namespace sinkscope::test {

/// The largest relative difference of what two runs logged of their steps, of at least 8 sequences, 3 layers and 2
/// heads each; infinite where the steps themselves differ.
double step_difference(const std::filesystem::path& a, const std::filesystem::path& b);

/// The same of losses, sink scores and residual norms of their probe passes.
double probe_difference(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace sinkscope::test
