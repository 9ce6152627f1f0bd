// `sinkscope monitor`: runs as they train, in the terminal or on a page; and the phases of one run, replayed.
#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/comm/socket.h"
#include "engine/files/replacement.h"
#include "engine/train/run_files.h"
#include "tools/commands.h"
#include "tools/program.h"
#include "tools/report/phase_report.h"
#include "tools/watch/live_view.h"
#include "tools/watch/server.h"
#include "tools/watch/terminal.h"

namespace sinkscope {
namespace {

struct MonitorArguments {
  std::vector<std::string> runs;
  bool once = false;
  bool replay = false;
  bool serve = false;
  ServeOptions server;
  std::optional<double> onset, plateau;
  std::optional<std::int64_t> window, confirm;
  std::string json;
};

void replay(const MonitorArguments& arguments) {
  if (arguments.runs.size() > 1)
    throw std::runtime_error("--replay takes one run, not " + std::to_string(arguments.runs.size()));
  const std::string& directory = arguments.runs.front();
  std::optional<PendingFile> output;
  if (!arguments.json.empty()) output.emplace(arguments.json);  // refuses an existing file before any work
  const RunData run = load_run(directory, false);
  const Config config = read_run_config(directory);
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
    throw std::runtime_error(directory + ": the replay differs from what the run logged, in " +
                             std::to_string(report.check->differences.size()) + " places");
}

void serve(const MonitorArguments& arguments) {
  require_http_library();
  watch_interrupts();
  serve_runs(arguments.runs, arguments.server, interrupted(), [&](const std::string& url) {
    std::cout << "live page: " << url << "  (Ctrl-C ends it)" << std::endl;
    if (!is_loopback(arguments.server.address))
      std::cout << "who reaches " << arguments.server.address << " can read these runs: there is no password"
                << std::endl;
  });
}

void monitor(const MonitorArguments& arguments) {
  if (arguments.replay) return replay(arguments);
  if (arguments.serve) return serve(arguments);
  if (arguments.once || !stdout_is_screen()) return print_view(arguments.runs);
  watch_interrupts();
  watch_runs(arguments.runs, interrupted());
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
  CLI::App* command =
      app.add_subcommand("monitor", "Watch runs train, in the terminal or on a page; or replay the phases of one run");
  command->add_option("runs", arguments->runs, "run directories, of finished or running runs, or of runs to come")
      ->required()->type_name("RUN");
  CLI::Option* once =
      command->add_flag("--once", arguments->once, "print one view, as where the output is no terminal");
  CLI::Option* replay =
      command->add_flag("--replay", arguments->replay, "replay the phases of one run from its logs instead")
          ->excludes(once);
  CLI::Option* serve =
      command->add_flag("--serve", arguments->serve, "serve a page of the runs that is updated while they train")
          ->excludes(once)
          ->excludes(replay);
  command->add_option("--port", arguments->server.port, "of the page; 0, the default: any that is free")
      ->check(CLI::Range(0, 65535))->type_name("NUMBER")->needs(serve);
  command
      ->add_option("--bind", arguments->server.address,
                   "address to listen on (default: 127.0.0.1, for this machine alone)")
      ->type_name("ADDRESS")
      ->needs(serve);
  command->add_option("--onset", arguments->onset, "excess of position 0 at which a sink begins, instead of the run's")
      ->check(above_zero)->type_name("NUMBER")->needs(replay);
  command
      ->add_option("--plateau", arguments->plateau, "relative change over the window that counts as stable, likewise")
      ->check(above_zero)
      ->type_name("NUMBER")
      ->needs(replay);
  command->add_option("--window", arguments->window, "passes looked back on, likewise")
      ->check(CLI::Range(2, 1'000'000))->type_name("PASSES")->needs(replay);
  command->add_option("--confirm", arguments->confirm, "passes in a row before a phase is entered, likewise")
      ->check(CLI::Range(1, 1'000'000))->type_name("PASSES")->needs(replay);
  command->add_option("--json", arguments->json, "write all of the replay to this new file as well")
      ->type_name("FILE")
      ->needs(replay);
  command->callback([arguments] { monitor(*arguments); });
}

}  // namespace sinkscope
