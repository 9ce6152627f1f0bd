// A small dataset of bytes and configs to train on it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/train/trainer.h"
#include "tests/files.h"

namespace sinkscope::test {

/// Writes sentences made of a few words, and a dataset of their bytes; returns the dataset's folder.
std::filesystem::path make_dataset(const std::filesystem::path& folder, double validation_fraction = 0.2);

/// A model of two blocks on that dataset, 12 steps, every kind of pass due within them.
Config small_config(const std::filesystem::path& folder, const std::vector<std::string>& overrides = {});

/// The log without the keys that hold times, one canonical line a record.
std::vector<std::string> timeless_lines(const std::filesystem::path& file);

/// What train() throws for the config; empty when nothing.
std::string train_error(const Config& config, bool resume = false);

TrainResult train_quietly(const Config& config, bool resume = false);

}  // namespace sinkscope::test
