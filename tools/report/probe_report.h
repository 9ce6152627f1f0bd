// What `sinkscope probe` found in one model: tables for the terminal, JSON, and one self-contained HTML page.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/metrics/records.h"
#include "engine/probes/causal.h"

namespace sinkscope {

struct ProbeReport {
  std::string source;                  // as it was given
  std::optional<std::int64_t> step;    // of one of our checkpoints
  std::string device;                  // Ops::description()
  std::string build;
  std::string text;                    // where the natural sets come from, and the BOS token
  std::int64_t seed = 1;               // of the choice of sequences
  ModelConfig model;
  std::int64_t parameters = 0;
  double sink_threshold = 0.3;         // eps
  std::int64_t from_layer = 2;         // of the sink rate over late layers
  std::vector<ProbeRecord> sets;
  std::size_t shown = 0;               // the set that the tables by layer are of
  std::optional<CausalRecord> causal;
};

/// probe.json: "sets" hold records as lines of probes.jsonl do.
nlohmann::ordered_json to_json(const ProbeReport& report);

/// A row a probe set, then a row a layer of the set that is shown, then the causal tests and what they say.
std::string probe_text(const ProbeReport& report);

/// The page; it needs nothing beside itself, no script either.
std::string probe_page(const ProbeReport& report);

// The numbers of both, row by row; the first row is the head.
using ProbeTable = std::vector<std::vector<std::string>>;
ProbeTable probe_set_table(const ProbeReport& report);
ProbeTable probe_layer_table(const ProbeReport& report);
ProbeTable causal_table(const CausalRecord& record);

}  // namespace sinkscope
