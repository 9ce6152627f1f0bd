// The device memory of a whole run, before any of it is taken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/data/dataset.h"
#include "engine/model/decoder.h"
#include "engine/probes/probe_sets.h"
#include "kernels/backend_memory.h"
#include "kernels/ops.h"

namespace sinkscope {

/// What a run computes on and in.
struct Backend {
  Device device = Device::cpu;   // cpu or cuda
  DType compute = DType::f32;
  bool fp8 = false;              // of the blocks' linear maps
  int ranks = 1;                 // that train together, one a backend
  bool one_host = true;          // on which all of them are
};

/// That of a config; `auto` is a GPU where this build and machine have one, "cuda" a GPU even where they have
/// none. Throws ConfigError for bf16 on the CPU.
Backend backend_of(const Config& config, int ranks = 1, bool one_host = true);

/// The decoder options a run of this (completed) config uses on a backend.
DecoderOptions decoder_options(const Config& config, const Backend& backend);

/// Whether a run has probe passes, and measures the batches of the steps before them.
bool has_probe_passes(const ProbeConfig& probes);

/// The sets of the run's probe passes; empty when it has none, or no held-out text.
std::vector<ProbeSet> run_probe_sets(const Config& config, const Dataset& dataset);

/// What the run will ask of the operations of a rank's backend. Of the sets only extents count.
BackendExtents backend_extents(const Config& config, std::span<const ProbeSet> sets, const Backend& backend,
                               int rank = 0);

/// All of it: decoder, optimizer, probes and, on a GPU, the backend itself. Needs no GPU. Of the sets only extents
/// count. The config is one rank's (config_of_rank).
std::vector<MemoryLine> run_memory(const Config& config, std::span<const ProbeSet> sets, const Backend& backend);

std::size_t total_bytes(std::span<const MemoryLine> lines);

/// The lines as a table in MiB, those of a kind in one, with the sums of arenas and of all.
std::string memory_table(std::span<const MemoryLine> lines);

/// The largest train.micro_batch, up to that of the config, with which the run takes at most `available` bytes; 0 when
/// not even 1 does.
std::int64_t largest_micro_batch(const Config& config, std::span<const ProbeSet> sets, const Backend& backend,
                                 std::size_t available);

/// Throws ConfigError with the table and the largest micro-batch unless the run takes at most `available` bytes on each
/// of the backend's ranks. The config is that of all ranks.
void expect_fit(const Config& config, std::span<const ProbeSet> sets, const Backend& backend, std::size_t available);

}  // namespace sinkscope
