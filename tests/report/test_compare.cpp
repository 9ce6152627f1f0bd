#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <sstream>

#include "support.h"
#include "tests/catch.h"
#include "tools/commands.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// What `sinkscope compare` prints.
std::string compare(std::vector<std::string> arguments) {
  CLI::App app;
  add_compare_command(app);
  std::reverse(arguments.begin(), arguments.end());
  arguments.emplace_back("compare");
  std::ostringstream output;
  std::streambuf* const old = std::cout.rdbuf(output.rdbuf());
  try {
    app.parse(arguments);
  } catch (...) {
    std::cout.rdbuf(old);
    throw;
  }
  std::cout.rdbuf(old);
  return output.str();
}

}  // namespace

TEST_CASE("compare prints the table and writes the page where the runs are") {
  TemporaryFolder folder;
  write_chart_library(folder.path() / "assets");
  const AssetFolder assets(folder.path() / "assets");
  const auto runs = folder.path() / "runs";
  write_run(runs / "a", {});
  write_run(runs / "b", {"sweep/none", "none", 100, 0.0, true, true, 0, 1});
  const std::string a = (runs / "a").string(), b = (runs / "b").string();

  std::string text = compare({a, b, "--no-html"});
  REQUIRE(contains(text, "3.990 → 3.020"));
  REQUIRE(contains(text, "May the arms be compared?"));
  REQUIRE_FALSE(std::filesystem::exists(runs / "report.html"));

  text = compare({a, b + "/"});
  REQUIRE(contains(text, "report: " + std::filesystem::canonical(runs / "report.html").string()));
  compare({a});
  REQUIRE(std::filesystem::exists(runs / "a" / "report.html"));
  compare({a, b, "--html", (folder.path() / "page.html").string()});
  REQUIRE(std::filesystem::exists(folder.path() / "page.html"));
}

TEST_CASE("compare draws a figure beside the page or alone") {
  TemporaryFolder folder;
  const auto runs = folder.path() / "runs";
  write_run(runs / "a", {});
  const std::string a = (runs / "a").string(), figure = (folder / "figure.svg").string();
  REQUIRE(contains(compare({a, "--no-html", "--figure", figure}), "figure: " + figure));
  REQUIRE(contains(read_file(figure), "<!-- sinkscope compare figure -->"));
  REQUIRE_FALSE(std::filesystem::exists(runs / "a" / "report.html"));

  write_file(figure, "notes");
  // Before the runs are read, so that a long wait does not end in a refusal.
  REQUIRE(contains(message_of([&] {
                     compare({"nowhere", "--no-html", "--figure", figure});
                   }),
                   "--figure " + figure + ": exists"));
  REQUIRE(read_file(figure) == "notes");
  REQUIRE(contains(message_of([&] { compare({a, "--no-html", "--figure", ""}); }), "a file name is expected"));
}

TEST_CASE("compare refuses what it cannot do") {
  TemporaryFolder folder;
  REQUIRE_THROWS(compare({}));
  REQUIRE_THROWS(compare({"a", "--no-html", "--html", "x"}));
  REQUIRE(contains(message_of([&] { compare({(folder.path() / "none").string()}); }), "no such folder"));
}
