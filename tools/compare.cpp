#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/files/replacement.h"
#include "tools/commands.h"
#include "tools/report/ablation_file.h"
#include "tools/report/figure.h"
#include "tools/report/report.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;

struct CompareOptions {
  std::vector<std::string> runs;
  std::string html;
  bool no_html = false;
  std::string figure;
  std::vector<std::string> ablated;
  std::string json;
};

/// What was to vary: as the user says, one entry a factor, its keys separated by commas; else as the ablation says
/// whose arms the runs are.
std::optional<std::vector<AblationFactor>> varied(const CompareOptions& options) {
  if (options.ablated.empty()) return common_ablation({options.runs.begin(), options.runs.end()});
  std::vector<AblationFactor> factors;
  for (const std::string& text : options.ablated) {
    AblationFactor& factor = factors.emplace_back(AblationFactor{text, {}});
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find(',', begin), text.size());
      factor.keys.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
    for (const std::string& key : factor.keys) expect_variable_key(key, "--ablated " + text);
  }
  return factors;
}

/// The run's own folder for one run, else the deepest folder that holds all of them.
fs::path default_report(const std::vector<std::string>& runs) {
  fs::path common = fs::canonical(runs.front());
  if (runs.size() > 1) {
    common = common.parent_path();
    for (const std::string& run : runs) {
      const fs::path parent = fs::canonical(run).parent_path();
      fs::path shared;
      for (auto a = common.begin(), b = parent.begin(); a != common.end() && b != parent.end() && *a == *b; ++a, ++b)
        shared /= *a;
      common = shared;
    }
    if (common == common.root_path())
      throw std::runtime_error("the runs have no folder in common for the page; say where with --html FILE");
  }
  return common / "report.html";
}

void compare(const CompareOptions& options) {
  if (!options.figure.empty()) require_figure_possible(options.figure);
  std::optional<PendingFile> json;
  if (!options.json.empty()) json.emplace(options.json);  // refuses an existing file before any work
  std::vector<RunData> runs;
  std::vector<fs::path> places;
  for (const std::string& run : options.runs) {
    runs.push_back(load_run(run));
    places.push_back(fs::canonical(run));
    if (std::find(places.begin(), places.end() - 1, places.back()) != places.end() - 1)
      throw std::runtime_error(run + ": the run is given twice");
  }
  const std::optional<std::vector<AblationFactor>> factors = varied(options);
  std::cout << summary_table(runs) << "\n" << plain_summary(runs, factors) << std::flush;
  if (json) {
    json->write(comparison_json(runs, factors).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    json->commit();
  }
  if (!options.figure.empty()) {
    write_figure(runs, options.figure);
    std::cout << "\nfigure: " << options.figure << std::endl;
  }
  if (options.no_html) return;
  const fs::path file = options.html.empty() ? default_report(options.runs) : fs::path(options.html);
  write_report(runs, file, factors);
  std::cout << "\nreport: " << file.string() << std::endl;
}

}  // namespace

void add_compare_command(CLI::App& app) {
  const auto options = std::make_shared<CompareOptions>();
  CLI::App* command = app.add_subcommand("compare", "Compare runs: a table, a reading and an HTML page");
  command->add_option("runs", options->runs, "run directories, 1 to 32")
      ->required()
      ->expected(1, static_cast<int>(kMaxPageRuns))
      ->type_name("RUN");
  CLI::Option* html = command->add_option("--html", options->html,
                                          "the page (default: report.html in the folder that holds the runs, or in "
                                          "the run's own when there is one)");
  const auto named = [](const std::string& file) {
    return file.empty() ? std::string("a file name is expected") : std::string();
  };
  html->type_name("FILE")->check(named);
  command->add_option("--figure", options->figure, "also a static figure of the runs (SVG)")
      ->type_name("FILE")
      ->check(named);
  command
      ->add_option("--ablated", options->ablated,
                   "what was to vary: a key, or keys that change together; may be repeated (default: what the ablation "
                   "of these arms varies, else each setting that differs)")
      ->type_name("KEY[,KEY]")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--json", options->json, "write everything to this new file as well")
      ->type_name("FILE")
      ->check(named);
  command->add_flag("--no-html", options->no_html, "print only")->excludes(html);
  command->callback([options] { compare(*options); });
}

}  // namespace sinkscope
