// What the tests of checkpoints share: fresh folders, whole files, and example models.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "tests/files.h"

namespace sinkscope::test {

void replace_in_file(const std::filesystem::path& path, const std::string& from, const std::string& to);

/// A safetensors file of a literal header and data.
void write_raw_safetensors(const std::filesystem::path& path, const std::string& header, const std::string& data);

/// The names in a folder, sorted, hidden ones included.
std::vector<std::string> names_in(const std::filesystem::path& folder);

/// The message of the exception that `action` throws, with `folder` replaced by "@"; empty when it throws none.
std::string message_of(const std::filesystem::path& folder, const std::function<void()>& action);

/// A small resolved model of a family.
ModelConfig small_model(ModelPreset preset);

/// Parameters and moments with a value of its own at every place, gaps zero.
struct Arrays {
  explicit Arrays(const ModelConfig& model, std::uint64_t seed = 1);
  std::vector<float> parameters, first, second;
};

CheckpointData checkpoint_data(const ModelConfig& model, const Arrays& arrays, std::int64_t step);

}  // namespace sinkscope::test
