#include "engine/train/run_memory.h"

#include <algorithm>
#include <iterator>

#include "engine/config/load.h"
#include "engine/optim/adamw.h"
#include "engine/probes/causal.h"
#include "engine/probes/probe_pass.h"
#include "engine/train/batch_share.h"
#include "engine/train/format.h"
#include "engine/train/gradient_sums.h"
#include "engine/train/rank_parameters.h"

namespace sinkscope {
static_assert(kFp8Extents == kFp8Multiple);
namespace {

// Chunks of logits stay in a CPU's cache. On a GPU each one reads and writes the whole gradient of the head, so
// few and large ones are fast.
constexpr std::int64_t kCpuLogits = std::int64_t{8} << 20, kGpuLogits = std::int64_t{1} << 30;

// NCCL's own buffers, which grow with the links that it uses.
constexpr std::size_t kCommunication = std::size_t{512} << 20;

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

/// "block 3 norm1" and its like of other blocks make one line of the table.
std::string table_name(const std::string& buffer) {
  if (!buffer.starts_with("block ")) return buffer;
  const std::size_t space = buffer.find(' ', 6);
  return space == std::string::npos ? buffer : "blocks:" + buffer.substr(space);
}

Config with_micro_batch(Config config, std::int64_t micro_batch) {
  config.train.micro_batch = micro_batch;
  return config;
}

}  // namespace

Backend backend_of(const Config& config, int ranks, bool one_host) {
  if (config.device == Device::cuda || (config.device == Device::automatic && !cuda_devices().empty()))
    return {.device = Device::cuda,
            .compute = config.precision == Precision::fp32 ? DType::f32 : DType::bf16,
            .fp8 = config.precision == Precision::fp8,
            .ranks = ranks,
            .one_host = one_host};
  if (config.precision == Precision::bf16)
    throw ConfigError("precision is \"bf16\", and the CPU computes in fp32; expected \"fp32\" or \"auto\"");
  return {.fp8 = config.precision == Precision::fp8, .ranks = ranks, .one_host = one_host};
}

DecoderOptions decoder_options(const Config& config, const Backend& backend) {
  return {.max_sequences = config.train.micro_batch,
          .max_length = config.train.sequence_length,
          .sink_positions = config.probes.enabled ? config.probes.positions : 0,
          .residual_norms = config.probes.enabled,
          .attention_sums = has_probe_passes(config.probes),
          .training = true,
          .gradients_by_section = has_gradients_by_section(config.ranks, backend.ranks),
          .parameters_by_section = has_parameters_by_section(config.ranks, backend.ranks),
          .recompute = config.train.recompute,
          .fp8 = backend.fp8,
          .recorded = config.train.cuda_graph,
          .logits_bytes = backend.device == Device::cuda ? kGpuLogits : kCpuLogits};
}

bool has_probe_passes(const ProbeConfig& probes) { return probes.enabled && probes.every > 0; }

std::vector<ProbeSet> run_probe_sets(const Config& config, const Dataset& dataset) {
  if (!has_probe_passes(config.probes) || !dataset.validation) return {};
  return build_probe_sets(*dataset.validation, probe_set_options(config, dataset.vocab_size));
}

BackendExtents backend_extents(const Config& config, std::span<const ProbeSet> sets, const Backend& backend, int rank) {
  const ModelConfig& model = config.model;
  const DecoderOptions options = decoder_options(config, backend);
  const ParameterLayout layout(model);
  const OptimizerShare share = share_of(config.ranks, layout, rank, backend.ranks);
  const std::int64_t up_width = model.mlp == MlpType::swiglu ? 2 * model.hidden : model.hidden;
  const std::int64_t qkv_width = (model.heads + 2 * model.kv_heads) * model.head_dim;
  const std::int64_t biased = model.bias ? std::max({qkv_width, up_width, model.channels})
                              : model.qkv_bias ? qkv_width : 0;
  BackendExtents extents{.training = {.sequences = options.max_sequences, .length = options.max_length},
                         .training_statistics = options.attention_sums,
                         .probed = {},
                         .query_heads = model.heads,
                         .kv_heads = model.kv_heads,
                         .head_dim = model.head_dim,
                         .compute = backend.compute,
                         .layers = model.layers,
                         .channels = model.channels,
                         .bias_outputs = biased,
                         .qkv_sums = (model.bias || model.qkv_bias) && !model.qk_norm,
                         .positions = options.sink_positions,
                         .rope_theta = model.position == PositionEncoding::rope ? model.rope_theta : 0,
                         .rotary_dim = model.rotary_dim,
                         .segments = share.of(layout.segments()),
                         .flat_size = share.size()};
  if (backend.fp8)
    extents.fp8 = {{model.channels, qkv_width}, {model.heads * model.head_dim, model.channels},
                   {model.channels, up_width}, {model.hidden, model.channels}};
  for (const ProbeSet& set : sets)
    extents.probed.push_back({.sequences = ProbePass::batch_sequences(options, set), .length = set.length});
  return extents;
}

std::vector<MemoryLine> run_memory(const Config& config, std::span<const ProbeSet> sets, const Backend& backend) {
  const DecoderOptions options = decoder_options(config, backend);
  std::vector<MemoryLine> lines = Decoder::memory_plan(config.model, options, backend.compute);
  const auto append = [&](std::vector<MemoryLine> more) {
    lines.insert(lines.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  };
  const ParameterLayout layout(config.model);
  append(RankParameters::memory_plan(layout, config.ranks, backend.ranks, backend.compute));
  append(GradientSums::memory_plan(layout, config.ranks, backend.ranks));
  append(AdamW::memory_plan(layout, backend.compute, share_of(config.ranks, layout, 0, backend.ranks)));
  if (!sets.empty()) append(ProbePass::memory_plan(config.model, options, config.probes, sets, backend.compute));
  if (!sets.empty() && config.probes.causal_every > 0) append(CausalTests::memory_plan(config.model, backend.compute));
  if (backend.device != Device::cuda) return lines;
  const BackendMemory memory = cuda_memory(backend_extents(config, sets, backend));
  const auto line = [&](const char* buffer, std::size_t bytes) {
    if (bytes > 0) lines.push_back({"backend", buffer, bytes});
  };
  line("matrix product workspace", memory.workspace);
  line("scratch of operations", memory.scratch);
  line("rotary table", memory.rotary);
  line("optimizer chunks", memory.chunks);
  if (backend.ranks > 1) {
    const CarriedBytes carried =
        backend.one_host ? carried_bytes(layout, config.ranks, backend.ranks, backend.compute) : CarriedBytes{};
    line("gradients on their way",
         carried.reduced > 0 ? carried.reduced : GradientSums::wire_bytes(layout, config.ranks, backend.ranks));
    line("parameters on their way", carried.shared);
  }
  line("communication, an allowance", backend.ranks > 1 ? kCommunication : 0);
  line("code, an allowance", memory.code);
  return lines;
}

std::size_t total_bytes(std::span<const MemoryLine> lines) {
  std::size_t bytes = 0;
  for (const MemoryLine& line : lines) bytes += line.bytes;
  return bytes;
}

std::string memory_table(std::span<const MemoryLine> lines) {
  std::vector<MemoryLine> rows;
  for (const MemoryLine& line : lines) {
    const std::string name = table_name(line.buffer);
    const auto same = [&](const MemoryLine& row) { return row.arena == line.arena && row.buffer == name; };
    if (const auto found = std::find_if(rows.begin(), rows.end(), same); found != rows.end()) {
      found->bytes += line.bytes;
      continue;
    }
    // Behind the other rows of its arena, which need not be neighbours.
    const auto last =
        std::find_if(rows.rbegin(), rows.rend(), [&](const MemoryLine& row) { return row.arena == line.arena; });
    rows.insert(last == rows.rend() ? rows.end() : last.base(), {line.arena, name, line.bytes});
  }
  const auto row_text = [](const std::string& arena, const std::string& buffer, std::size_t bytes) {
    return format("%-14s %-34s %12.3f\n", arena.c_str(), buffer.c_str(), mebibytes(bytes));
  };
  std::string table = format("%-14s %-34s %12s\n", "memory", "buffer", "MiB");
  std::size_t arena_total = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    table += row_text(rows[i].arena, rows[i].buffer, rows[i].bytes);
    arena_total += rows[i].bytes;
    if (i + 1 < rows.size() && rows[i + 1].arena == rows[i].arena) continue;
    table += row_text(rows[i].arena, "= all of it", arena_total);
    arena_total = 0;
  }
  return table + row_text("total", "", total_bytes(lines));
}

std::int64_t largest_micro_batch(const Config& config, std::span<const ProbeSet> sets, const Backend& backend,
                                 std::size_t available) {
  const auto fits = [&](std::int64_t micro_batch) {
    return total_bytes(run_memory(with_micro_batch(config, micro_batch), sets, backend)) <= available;
  };
  // Memory grows with the micro-batch, except where a probe set no longer goes through in parts, which frees the
  // rows gathered of it: between those places bisection finds the largest.
  const std::int64_t most = config.train.micro_batch, T = config.train.sequence_length;
  std::vector<std::int64_t> begins = {1};
  for (const ProbeSet& set : sets) {
    const std::int64_t whole = (set.sequences * set.length + T - 1) / T;
    if (whole > 1 && whole <= most) begins.push_back(whole);
  }
  std::sort(begins.begin(), begins.end());
  std::int64_t end = most + 1;
  for (auto begin = begins.rbegin(); begin != begins.rend(); end = *begin++) {
    if (*begin >= end || !fits(*begin)) continue;
    std::int64_t good = *begin, bad = end;
    while (bad - good > 1) {
      const std::int64_t middle = good + (bad - good) / 2;
      (fits(middle) ? good : bad) = middle;
    }
    return good;
  }
  return 0;
}

void expect_fit(const Config& config, std::span<const ProbeSet> sets, const Backend& backend, std::size_t available) {
  const Config own = config_of_rank(config, backend.ranks);
  const std::vector<MemoryLine> lines = run_memory(own, sets, backend);
  if (total_bytes(lines) <= available) return;
  const std::int64_t largest = largest_micro_batch(own, sets, backend, available);
  std::string table = memory_table(lines);
  table.pop_back();  // the newline
  // A rank of several may have less in a pass than train.micro_batch, which is only the most.
  const bool alone = backend.ranks == 1;
  const std::string what =
      "a train.micro_batch of " + std::to_string(config.train.micro_batch) +
      (alone ? "" : ", in passes of " + std::to_string(own.train.micro_batch) + " sequences on each of " +
                        std::to_string(backend.ranks) + " ranks,");
  const std::string fits =
      std::string("the largest that fits ") + (alone ? "" : "with any train.gradient_accumulation ") + "is ";
  throw ConfigError(
      config.name + ": " + what +
      format(" takes %.0f MiB of %s, and %.0f MiB are free; ", mebibytes(total_bytes(lines)),
             backend.device == Device::cuda ? "device memory" : "this machine's memory", mebibytes(available)) +
      (largest > 0 ? fits + std::to_string(largest) : "not even 1 fits") + "\n" + table);
}

}  // namespace sinkscope
