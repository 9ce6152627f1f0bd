#include "tools/plan.h"

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/config/load.h"

namespace sinkscope {
namespace {

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024.0); }

/// "block 3 norm1" and its like of other blocks make one line of the table.
std::string table_name(const std::string& buffer) {
  if (!buffer.starts_with("block ")) return buffer;
  const std::size_t space = buffer.find(' ', 6);
  return space == std::string::npos ? buffer : "blocks:" + buffer.substr(space);
}

}  // namespace

void print_plan(const RunPlan& plan) {
  std::cout << to_json(plan.config).dump(2) << "\n\n" << std::flush;
  const double tokens = static_cast<double>(plan.tokens_per_step);
  std::printf("parameters        %lld\n", static_cast<long long>(plan.parameters));
  std::printf("FLOPs per token   %.4g (forward and backward)\n", plan.flops_per_token);
  std::printf("tokens per step   %lld (%.4g FLOPs)\n", static_cast<long long>(plan.tokens_per_step),
              tokens * plan.flops_per_token);
  const double run_tokens = tokens * static_cast<double>(plan.config.train.steps);
  if (plan.dataset_absent) {
    const DataConfig& data = plan.config.data;
    std::printf("tokens of the run %.0f (%.3g FLOPs)\n", run_tokens, run_tokens * plan.flops_per_token);
    std::printf("dataset           absent (%s): no epochs, no fingerprint, no ids of BOS and EOS, no memory of probe passes\n\n",
                data.path.empty() ? "no file matches data.train" : (data.path + " is not there").c_str());
  } else {
    std::printf("tokens of the run %.0f (%.3g epochs of %lld; %.3g FLOPs)\n", run_tokens,
                run_tokens / static_cast<double>(plan.train_tokens), static_cast<long long>(plan.train_tokens),
                run_tokens * plan.flops_per_token);
    std::printf("dataset           %s\n\n", plan.dataset_fingerprint.c_str());
  }

  struct Row {
    std::string arena, buffer;
    std::size_t bytes = 0;
  };
  std::vector<Row> rows;
  for (const MemoryLine& line : plan.memory) {
    const std::string name = table_name(line.buffer);
    Row* found = nullptr;
    for (Row& row : rows)
      if (row.arena == line.arena && row.buffer == name) found = &row;
    if (found == nullptr) found = &rows.emplace_back(Row{line.arena, name, 0});
    found->bytes += line.bytes;
  }
  std::printf("%-14s %-34s %12s\n", "memory", "buffer", "MiB");
  std::size_t total = 0, arena_total = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::printf("%-14s %-34s %12.3f\n", rows[i].arena.c_str(), rows[i].buffer.c_str(), mebibytes(rows[i].bytes));
    arena_total += rows[i].bytes;
    if (i + 1 == rows.size() || rows[i + 1].arena != rows[i].arena) {
      std::printf("%-14s %-34s %12.3f\n", rows[i].arena.c_str(), "= all of it", mebibytes(arena_total));
      total += arena_total;
      arena_total = 0;
    }
  }
  std::printf("%-14s %-34s %12.3f\n", "total", "", mebibytes(total));
  std::fflush(stdout);
}

}  // namespace sinkscope
