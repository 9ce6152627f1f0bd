// What the README explains is there: every chart of a page, and where its links lead.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/end_to_end/markdown.h"
#include "tests/end_to_end/program.h"

namespace sinkscope {
namespace {

using namespace test;

std::vector<std::string> titles_of(const std::string& page) {
  const std::string open = "<script type=\"application/json\" id=\"payload\">";
  const std::size_t begin = page.find(open) + open.size();
  const auto payload = nlohmann::json::parse(page.substr(begin, page.find("</script>", begin) - begin));
  std::vector<std::string> titles;
  for (const char* part : {"charts", "heatmaps"})
    for (const auto& chart : payload.at(part)) titles.push_back(chart.at("title"));
  return titles;
}

TEST_CASE("the README explains every chart of a page, in the page's order") {
  const Workplace place;
  for (const char* file : {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"})
    place.write(std::string("assets/uplot/") + file, "/* */");
  REQUIRE(place.run("train config.json && SINKSCOPE_ASSETS=assets '" SINKSCOPE_PROGRAM "' compare runs/small").status ==
          0);
  std::string text;
  for (const char c : section_of(readme_text(), "Reading the charts")) {
    const char shown = c == '\n' ? ' ' : c;
    if (shown != ' ' || !text.ends_with(' ')) text += shown;
  }
  const std::vector<std::string> titles = titles_of(place.read("runs/small/report.html"));
  CHECK(titles.size() >= 11);
  std::size_t last = 0;
  for (const std::string& title : titles) {
    INFO(title);
    const std::size_t at = text.find("**" + title + "**");
    REQUIRE(at != std::string::npos);
    CHECK(at > last);
    last = at;
  }
  // What it explains is there, also what this run has no data for.
  std::string sources;
  for (const char* file : {"payload.cpp", "page.cpp", "page.html"})
    sources += read_file(repository() / "tools/report" / file);
  for (std::size_t begin = 0; (begin = text.find("**", begin)) != std::string::npos;) {
    const std::size_t end = text.find("**", begin + 2);
    const std::string title = text.substr(begin + 2, end - begin - 2);
    INFO(title);
    CHECK((contains(sources, "\"" + title + "\"") || contains(sources, "<h2>" + title + "</h2>")));
    begin = end + 2;
  }
}

TEST_CASE("the README's links lead somewhere") {
  const std::string text = readme_text();
  std::vector<std::string> anchors;
  for (std::size_t at = 0; (at = text.find("\n## ", at)) != std::string::npos; ++at) {
    std::string anchor;
    for (const char c : text.substr(at + 4, text.find('\n', at + 1) - at - 4))
      anchor += c == ' ' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    anchors.push_back(anchor);
  }
  std::size_t links = 0;
  for (std::size_t at = 0; (at = text.find("](", at)) != std::string::npos; ++at, ++links) {
    const std::string target = text.substr(at + 2, text.find(')', at) - at - 2);
    INFO(target);
    if (target.starts_with("#"))
      CHECK(std::find(anchors.begin(), anchors.end(), target.substr(1)) != anchors.end());
    else
      CHECK(std::filesystem::exists(repository() / target));
  }
  CHECK(links > 20);
}

}  // namespace
}  // namespace sinkscope
