#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/comm/launch.h"
#include "engine/config/load.h"
#include "engine/train/trainer.h"
#include "kernels/ops.h"
#include "tools/arguments.h"
#include "tools/arms.h"
#include "tools/commands.h"
#include "tools/gpu_choice.h"
#include "tools/plan.h"
#include "tools/program.h"
#include "tools/report/ablation_file.h"
#include "tools/report/report.h"

namespace sinkscope {
namespace {

struct AblateArguments {
  std::string config;
  std::vector<std::string> overrides;
  std::optional<std::int64_t> jobs;
  std::string devices;
  bool resume = false;
  bool dry_run = false;
  bool no_html = false;
};

/// The command that goes on with what was begun.
std::string resume_command(const AblateArguments& arguments) {
  std::string text = "sinkscope ablate " + shell_word(arguments.config) + set_options(arguments.overrides);
  if (arguments.jobs) text += " --jobs " + std::to_string(*arguments.jobs);
  if (!arguments.devices.empty()) text += " --devices " + shell_word(arguments.devices);
  if (arguments.no_html) text += " --no-html";
  return text + " --resume";
}

/// How many arms at a time, and where: several at a time without --devices take all GPUs in turns.
ArmOptions arm_options(const AblateArguments& arguments, const std::vector<PlannedArm>& arms) {
  ArmOptions options;
  const bool any_on_gpu = std::any_of(arms.begin(), arms.end(), [](const PlannedArm& arm) { return arm.on_gpu; });
  if (!arguments.devices.empty()) {
    for (const PlannedArm& arm : arms)
      if (!arm.on_gpu)
        throw std::runtime_error("--devices " + arguments.devices + ": names GPUs, and " + arm.config.name +
                                 " computes on the CPU; --jobs N alone divides its threads among N arms at a time");
    options.gpus =
        gpu_choices(arguments.devices, std::getenv("CUDA_VISIBLE_DEVICES"), cuda_devices().size(), "--devices");
  } else if (any_on_gpu && arguments.jobs.value_or(1) > 1) {
    std::string all;
    const std::size_t count = cuda_devices().size();
    for (std::size_t gpu = 0; gpu < count; ++gpu) all += (gpu == 0 ? "" : ",") + std::to_string(gpu);
    if (count > 0) options.gpus = gpu_choices(all, std::getenv("CUDA_VISIBLE_DEVICES"), count, "--devices");
  }
  options.jobs = arguments.jobs.value_or(arguments.devices.empty() ? 1 : std::ssize(options.gpus));
  return options;
}

void compare_arms(const std::vector<std::filesystem::path>& directories, const AblateArguments& arguments,
                  const std::filesystem::path& page) {
  std::vector<RunData> runs;
  for (const std::filesystem::path& directory : directories) runs.push_back(load_run(directory));
  const std::vector<AblationFactor> factors = common_ablation(directories).value();
  std::cout << "\n" << summary_table(runs) << "\n" << plain_summary(runs, factors) << std::flush;
  if (arguments.no_html) return;
  write_report(runs, page, factors);
  std::cout << "\nreport: " << page.string() << std::endl;
}

/// Throws std::runtime_error where the comparison could not be printed.
void expect_printed(const std::vector<std::filesystem::path>& directories) {
  if (std::cout) return;
  std::string command = "sinkscope compare";
  for (const std::filesystem::path& directory : directories) command += " " + shell_word(directory.string());
  throw std::runtime_error("standard output: cannot write; the comparison is that of: " + command);
}

void run(const AblateArguments& arguments) {
  if (const Launch launch = read_launch(); !launch.launcher.empty() && launch.size != 1)
    throw std::runtime_error(
        "ablate trains each arm as one rank, and " + launch.launcher +
        " has started several; start it by itself, with --jobs or --devices for several arms at a time");
  const Config config = load_config(arguments.config, arguments.overrides);
  const std::vector<Config> arms = expand_ablation(config);
  const std::filesystem::path folder = run_directory(config), page = folder / "report.html";
  if (!arguments.no_html) require_report_possible(arms.size(), page);  // before the training, and in a dry run
  for (const Config& arm : arms)
    if (!arguments.resume && begun(run_directory(arm)))
      throw std::runtime_error(
          run_directory(arm).string() +
          ": holds a run already; resume it with --resume, or give another name with --set name=...");
  if (arguments.dry_run) {
    for (std::size_t i = 0; i < arms.size(); ++i) {
      std::cout << "arm " << i + 1 << " of " << arms.size() << ": " << arms[i].name << std::endl;
      print_plan(plan_run(arms[i]));
    }
    return;
  }
  const std::vector<PlannedArm> planned = plan_arms(arms);
  const ArmOptions options = arm_options(arguments, planned);
  std::vector<std::filesystem::path> directories;
  for (const PlannedArm& arm : planned) directories.push_back(arm.directory);
  write_ablation_file(folder, {ablation_factors(config), directories});

  watch_interrupts();
  outlive_output();
  const std::vector<ArmOutcome> outcomes = run_arms(planned, options);
  std::string not_done;
  std::size_t missing = 0;
  for (std::size_t i = 0; i < outcomes.size(); ++i) {
    if (outcomes[i].state == ArmState::done) continue;
    not_done += "\n  " + arms[i].name + ": " + outcomes[i].reason;
    ++missing;
  }
  if (interrupted().load() && missing > 0) {
    print_line("\nstopped; go on with: " + resume_command(arguments));
    end_stopped();
  }
  std::vector<std::filesystem::path> done;
  for (std::size_t i = 0; i < outcomes.size(); ++i)
    if (outcomes[i].state == ArmState::done) done.push_back(directories[i]);
  if (!done.empty()) compare_arms(done, arguments, page);
  if (missing > 0)
    throw std::runtime_error(std::to_string(missing) + " of " + std::to_string(arms.size()) +
                             " arms are not done; go on with: " + resume_command(arguments) + not_done);
  expect_printed(done);
}

}  // namespace

void add_ablate_command(CLI::App& app) {
  const auto arguments = std::make_shared<AblateArguments>();
  CLI::App* command = app.add_subcommand("ablate", "Train every arm of a config's ablation, then compare them");
  command->add_option("config", arguments->config, "config file (JSON) with an \"ablation\"")
      ->required()
      ->type_name("CONFIG");
  add_set_option(*command, arguments->overrides, "override for all arms; may be repeated");
  command
      ->add_option("--jobs", arguments->jobs,
                   "arms at a time (default: one, or one a GPU of --devices); on GPUs in turns, on the CPU each with "
                   "its share of the threads")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command->add_option("--devices", arguments->devices, "GPUs to train on, e.g. 0,1,2, as this process counts them")
      ->type_name("LIST");
  command->add_flag("--resume", arguments->resume, "continue: finished arms are kept, others go on");
  command->add_flag("--dry-run", arguments->dry_run,
                    "check what a run checks and print the plan of every arm; train nothing");
  command->add_flag("--no-html", arguments->no_html, "print the comparison only");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace sinkscope
