// `sinkscope monitor`: the phases of a run, replayed from its logs.
#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

#include "engine/files/replacement.h"
#include "engine/train/run_files.h"
#include "tools/commands.h"
#include "tools/program.h"
#include "tools/report/phase_report.h"

namespace sinkscope {
namespace {

struct MonitorArguments {
  std::string run;
  std::optional<double> onset, plateau;
  std::optional<std::int64_t> window, confirm;
  std::string json;
};

void monitor(const MonitorArguments& arguments) {
  std::optional<PendingFile> output;
  if (!arguments.json.empty()) output.emplace(arguments.json);  // refuses an existing file before any work
  const RunData run = load_run(arguments.run, false);
  const Config config = read_run_config(arguments.run);
  PhaseConfig thresholds = config.probes.phase;
  thresholds.onset = arguments.onset.value_or(thresholds.onset);
  thresholds.plateau = arguments.plateau.value_or(thresholds.plateau);
  thresholds.window = arguments.window.value_or(thresholds.window);
  thresholds.confirm = arguments.confirm.value_or(thresholds.confirm);
  const PhaseReport report = report_phases(run, config, thresholds);
  std::cout << phase_text(report, static_cast<std::size_t>(terminal_width())) << std::flush;
  if (output) {
    output->write(phase_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    output->commit();
  }
  if (report.check && !report.check->differences.empty())
    throw std::runtime_error(arguments.run + ": the replay differs from what the run logged, in " +
                             std::to_string(report.check->differences.size()) + " places");
}

/// As the config's limits of these thresholds: a finite number above 0.
std::string above_zero(const std::string& text) {
  double value = 0;
  if (!CLI::detail::lexical_cast(text, value) || !std::isfinite(value) || value <= 0)
    return "expected a number above 0, found \"" + text + "\"";
  return {};
}

}  // namespace

void add_monitor_command(CLI::App& app) {
  const auto arguments = std::make_shared<MonitorArguments>();
  CLI::App* command = app.add_subcommand("monitor", "Replay the phases of a run from its logs, finished or still running");
  command->add_option("run", arguments->run, "run directory")->required()->type_name("RUN");
  command->add_option("--onset", arguments->onset, "excess of position 0 at which a sink begins, instead of the run's")
      ->check(above_zero)->type_name("NUMBER");
  command->add_option("--plateau", arguments->plateau, "relative change over the window that counts as stable, likewise")
      ->check(above_zero)->type_name("NUMBER");
  command->add_option("--window", arguments->window, "passes looked back on, likewise")->check(CLI::Range(2, 1'000'000))->type_name("PASSES");
  command->add_option("--confirm", arguments->confirm, "passes in a row before a phase is entered, likewise")
      ->check(CLI::Range(1, 1'000'000))->type_name("PASSES");
  command->add_option("--json", arguments->json, "write everything to this new file as well")->type_name("FILE");
  command->callback([arguments] { monitor(*arguments); });
}

}  // namespace sinkscope
