// From JSON files and `--set` overrides to a validated, resolved Config, and back.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/config/config.h"

namespace sinkscope {

/// What is wrong with a configuration: file, key path, and what was expected.
class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Reads `file`, applies `key=value` overrides in order (value: JSON, or a bare string), fills in
/// the defaults of the preset and the derived sizes (kv_heads, head_dim, hidden), and validates.
/// vocab_size and max_sequence_length may still be 0; see resolve_with_dataset.
/// Throws ConfigError for unknown, duplicate or mistyped keys (with the key that may be meant, or
/// those known there), values out of range, impossible combinations, nesting beyond 32, files that
/// cannot be read, and a config that names neither data.path nor data.train.
Config load_config(const std::filesystem::path& file, std::span<const std::string> overrides = {});

/// The same from JSON text, but a config without data is fine; `origin` stands for the file in messages.
Config parse_config(const std::string& text, const std::string& origin,
                    std::span<const std::string> overrides = {});
/// The same of the config that a run has stored, by this version of the program or one before it.
Config parse_stored_config(const std::string& text, const std::string& origin);

/// Takes vocab_size, bos_id and eos_id from the dataset where the config leaves them open, sets
/// max_sequence_length, and checks that they fit. Throws ConfigError.
void resolve_with_dataset(Config& config, std::int64_t vocab_size, std::int64_t bos_id, std::int64_t eos_id);

/// Every field with its value, in declaration order (nlohmann::ordered_json).
nlohmann::ordered_json to_json(const Config& config);
nlohmann::ordered_json to_json(const ModelConfig& config);

/// What a config says for itself, in declaration order: dotted keys and their values as JSON text, but for values that
/// are the defaults, follow from the preset or from other sizes (config.derived).
std::vector<std::pair<std::string, std::string>> changed_fields(const Config& config);

/// JSON Schema (2020-12) of a configuration file.
nlohmann::ordered_json config_schema();

/// The configuration reference as a Markdown table: configs/REFERENCE.md.
std::string config_reference();

/// The arms of an ablation: one config for each combination of the axes' values, named
/// "<name>/<key>-<value>[,...]" with the run directory below output/<name>; the first axis varies
/// slowest. The key is the last part of the dotted one ("bos-none"), all of it where two axes share
/// that part; keys that change together go by the name given to them and the value of the first of them
/// ("context-128"); values that make no file name count from 1 ("train-1"). All arms share every other
/// field; when `data.bos` varies, `data.common_targets` becomes the varied policies.
/// For a config as loaded, before resolve_with_dataset. Throws ConfigError when there is no axis, two of
/// them set one key, there are more than 1000 arms, or an arm is invalid.
std::vector<Config> expand_ablation(const Config& config);

/// Throws ConfigError, beginning with `origin`, unless `key` is the dotted key of a field that an ablation may vary.
void expect_variable_key(const std::string& key, const std::string& origin);

/// What an ablation varies, axis by axis.
struct AblationFactor {
  std::string name;               // the dotted key, or the name of a group
  std::vector<std::string> keys;  // dotted, in order
};
/// Throws as expand_ablation for the axes.
std::vector<AblationFactor> ablation_factors(const Config& config);

}  // namespace sinkscope
