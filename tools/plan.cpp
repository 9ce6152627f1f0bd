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

/// Parameters, FLOPs, data and the memory table.
void print_sizes(const RunPlan& plan) {
  const double tokens = static_cast<double>(plan.tokens_per_step);
  std::printf("parameters        %lld\n", static_cast<long long>(plan.parameters));
  std::printf("FLOPs per token   %.4g (forward and backward)\n", plan.flops_per_token);
  std::printf("tokens per step   %lld (%.4g FLOPs)\n", static_cast<long long>(plan.tokens_per_step),
              tokens * plan.flops_per_token);
  const double run_tokens = tokens * static_cast<double>(plan.config.train.steps);
  if (plan.dataset_absent) {
    const DataConfig& data = plan.config.data;
    std::printf("tokens of the run %.0f (%.3g FLOPs)\n", run_tokens, run_tokens * plan.flops_per_token);
    std::printf(
        "dataset           absent (%s): no epochs, no fingerprint, no ids of BOS and EOS, no memory of probe passes\n",
        data.path.empty() ? "no file matches data.train" : (data.path + " is not there").c_str());
  } else {
    std::printf("tokens of the run %.0f (%.3g epochs of %lld; %.3g FLOPs)\n", run_tokens,
                run_tokens / static_cast<double>(plan.train_tokens), static_cast<long long>(plan.train_tokens),
                run_tokens * plan.flops_per_token);
    std::printf("dataset           %s\n", plan.dataset_fingerprint.c_str());
  }
  if (plan.backend.ranks > 1)
    std::printf("ranks             %d, each with %lld of the %lld sequences of a step; memory is that of rank 0\n",
                plan.backend.ranks,
                static_cast<long long>(plan.tokens_per_step / plan.config.train.sequence_length / plan.backend.ranks),
                static_cast<long long>(plan.tokens_per_step / plan.config.train.sequence_length));
  if (plan.memory_available) {
    const std::size_t total = total_bytes(plan.memory);
    std::printf("%s %.0f of %.0f MiB that are free%s\n",
                plan.backend.device == Device::cuda ? "device memory    " : "memory           ", mebibytes(total),
                mebibytes(*plan.memory_available), total > *plan.memory_available ? ": it does not fit here" : "");
  }
  if (!plan.no_gpu.empty())
    std::printf("device memory     for a GPU in %s%s, and there is none to compare it with: %s\n",
                plan.backend.compute == DType::f32 ? "fp32" : "bf16", plan.backend.fp8 ? " with FP8 products" : "",
                plan.no_gpu.c_str());
  std::fputs("\n", stdout);
  std::fputs(memory_table(plan.memory).c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace

void print_plan(const RunPlan& plan) {
  std::cout << to_json(plan.config).dump(2) << "\n\n" << std::flush;
  print_sizes(plan);
  if (const std::filesystem::path directory = run_directory(plan.config);
      std::filesystem::exists(directory / "config.json"))
    std::cout << "\n"
              << directory.string() << " holds a run already: --resume goes on with it, --set name=... begins another"
              << std::endl;
}

void print_start(const RunPlan& plan) {
  std::string section, lines = "config            " + (run_directory(plan.config) / "config.json").string() +
                               "; what differs from the defaults:";
  for (const auto& [key, value] : changed_fields(plan.config)) {
    const std::size_t dot = key.find('.');
    const std::string owner = dot == std::string::npos ? "" : key.substr(0, dot);
    if (owner != section || lines.ends_with(':')) {
      lines += "\n  " + owner + std::string(16 - owner.size(), ' ');
      section = owner;
    } else {
      lines += "  ";
    }
    lines += key.substr(dot == std::string::npos ? 0 : dot + 1) + "=" + value;
  }
  std::cout << lines << "\ndevice            " << plan.device << "\n" << std::flush;
  print_sizes(plan);
  std::cout << std::endl;
}

}  // namespace sinkscope
