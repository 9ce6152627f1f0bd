#include <cmath>
#include <limits>

#include "markup.h"
#include "tests/catch.h"
#include "tests/files.h"
#include "tools/report/svg.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void check_ticks(const std::vector<double>& ticks, const std::vector<double>& expected) {
  REQUIRE(ticks.size() == expected.size());
  for (std::size_t i = 0; i < ticks.size(); ++i) CHECK(ticks[i] == Approx(expected[i]).margin(1e-12));
}

}  // namespace

TEST_CASE("the markup check finds faults") {
  CHECK(markup_fault("<a><b x=\"1\"/></a>\n", false).empty());
  CHECK(markup_fault("<!doctype html><html><meta charset=\"utf-8\"></html>", true).empty());
  for (const char* text :
       {"<a><b></a></b>", "<a>", "<a></a></a>", "<a x=1></a>", "<a x=\"1\" x=\"2\"></a>", "<a>&</a>", "<a>\x1b</a>",
        "<a><!-- x -- y --></a>", "<a>< b</a>", "text", "<a x=\"<\"></a>", "<a x=\"1></a>"}) {
    INFO(text);
    CHECK_FALSE(markup_fault(text, false).empty());
  }
}

TEST_CASE("a scale maps its ends to its pixels and has no place for what is no number") {
  const SvgScale linear(10, 20, 100, 200), falling(0, 1, 90, 10), logarithmic(1, 100, 0, 200, true);
  CHECK(linear(10) == 100);
  CHECK(linear(15) == 150);
  CHECK(linear(25) == 250);
  CHECK(linear.clamped(25) == 200);
  CHECK(linear.clamped(kInfinity) == 200);
  CHECK(falling(0.25) == 70);
  CHECK(logarithmic(10) == Approx(100));
  for (const double nowhere : {kUndefined, kInfinity, -kInfinity}) {
    CHECK(std::isnan(linear(nowhere)));
    CHECK(std::isnan(logarithmic(nowhere)));
  }
  CHECK(std::isnan(linear.clamped(kUndefined)));
  CHECK(std::isnan(logarithmic(0)));
  CHECK(std::isnan(logarithmic(-1)));
  CHECK_THROWS_AS(SvgScale(1, 1, 0, 10), std::invalid_argument);
  CHECK_THROWS_AS(SvgScale(kUndefined, 1, 0, 10), std::invalid_argument);
  CHECK_THROWS_AS(SvgScale(0, 1, 0, 10, true), std::invalid_argument);
}

TEST_CASE("ticks are round and lie in the range") {
  check_ticks(SvgScale(0, 1.18e9, 0, 1).ticks(8), {0, 2e8, 4e8, 6e8, 8e8, 1e9});
  check_ticks(SvgScale(-0.3, 0.3, 0, 1).ticks(3), {-0.2, 0, 0.2});
  check_ticks(SvgScale(3.38, 4.02, 0, 1).ticks(4), {3.4, 3.6, 3.8, 4.0});
  check_ticks(SvgScale(0.5, 15, 0, 1, true).ticks(6), {0.5, 1, 2, 5, 10});
  check_ticks(SvgScale(0.5, 2000, 0, 1, true).ticks(4), {1, 10, 100, 1000});
  check_ticks(SvgScale(1e-6, 1e6, 0, 1, true).ticks(4), {1e-6, 1e-3, 1, 1e3, 1e6});
  check_ticks(SvgScale(2.2, 3.8, 0, 1, true).ticks(4), {2.5, 3, 3.5});
  // Of a range that is a rounding or two wide there are few ticks, and an end of them.
  for (int roundings = 1; roundings <= 4; ++roundings) {
    double high = 4.1234;
    for (int i = 0; i < roundings; ++i) high = std::nextafter(high, 5);
    CHECK(SvgScale(4.1234, high, 0, 1).ticks(5).size() <= 24);
    const SvgRange range = svg_range({4.1234, high});
    CHECK(SvgScale(range.low, range.high, 0, 1).ticks(5).size() >= 2);
  }
  CHECK(tick_label(0.1 + 0.2) == "0.3");
  CHECK(tick_label(-0.0) == "0");
  CHECK(tick_label(200) == "200");
  CHECK(tick_label(kUndefined) == "-");
}

TEST_CASE("a range holds the values that can be shown") {
  const SvgRange range = svg_range({kUndefined, 2, 4, kInfinity});
  CHECK(range.low < 2);
  CHECK(range.low > 1.8);
  CHECK(range.high > 4);
  CHECK(range.high < 4.2);
  const SvgRange positive = svg_range({-1, 0, 1, 100}, true);
  CHECK(positive.low > 0.5);
  CHECK(positive.low < 1);
  for (const bool logarithmic : {false, true})
    for (const std::vector<double>& values :
         {std::vector<double>{}, std::vector<double>{kUndefined}, std::vector<double>{3, 3}}) {
      const SvgRange some = svg_range(values, logarithmic);
      CHECK_NOTHROW(SvgScale(some.low, some.high, 0, 1, logarithmic));
    }
  CHECK(spans_factor({1, kUndefined, 11}, 10));
  CHECK_FALSE(spans_factor({0, 2, 11}, 10));
  CHECK_FALSE(spans_factor({}, 10));
}

TEST_CASE("a drawing escapes text and leaves out what is no number") {
  SvgDrawing drawing(100, 50);
  for (const double bad : {kUndefined, kInfinity}) {
    drawing.line(0, bad, 1, 1, "");
    drawing.rectangle(0, 0, bad, 1, "");
    drawing.circle(bad, 0, 1, "");
    drawing.text(bad, 0, "x", "");
    drawing.path({{0, 1}, {bad, bad}}, "");
  }
  drawing.rectangle(0, 0, -1, 1, "");
  const std::string empty = drawing.finish("nothing", true, "mark");
  CHECK(markup_fault(empty, false).empty());
  CHECK(contains(empty, "<!-- mark -->"));
  for (const char* element : {"<line", "<rect", "<circle", "<text", "<path", "nan", "inf"})
    CHECK_FALSE(contains(empty, element));

  drawing.text(1.25, -0.01, "a<b>&\"\x1b", svg_attribute("fill", "\"><script>"));
  drawing.circle(1, 2, 3, "", "<title>");
  const std::string text = drawing.finish("\"<label>", true);
  CHECK(markup_fault(text, false).empty());
  CHECK(contains(text, "x=\"1.2\" y=\"0\""));
  CHECK(contains(text, "a&lt;b&gt;&amp;&quot;\\x1B"));
  CHECK(contains(text, "<title>&lt;title&gt;</title>"));
  CHECK_FALSE(contains(text, "<script>"));
  CHECK_FALSE(contains(drawing.finish("label", false), "xmlns"));
}

TEST_CASE("a path breaks at gaps, and a lone point is a dot") {
  SvgDrawing drawing(10, 10);
  drawing.path({{0, 1, 2, 3, 4, 5}, {0, 1, kUndefined, 3, kUndefined, 5}}, "");
  CHECK(contains(drawing.finish("path", false), "d=\"M0,0 1,1M3,3h0.1M5,5h0.1\""));
}

TEST_CASE("steps hold a value until the next") {
  const Series steps = as_steps({{0, 1, 2, 3, 4}, {2, 2, 2, 5, 5}});
  CHECK(steps.x == std::vector<double>{0, 3, 3, 4, 4});
  CHECK(steps.y == std::vector<double>{2, 2, 5, 5, 5});
}

TEST_CASE("axes are drawn where the panel is") {
  SvgDrawing drawing(200, 100);
  const SvgPanel panel = {SvgScale(0, 10, 40, 190), SvgScale(0, 1, 80, 10)};
  draw_y_axis(drawing, panel, {"black", "grey", "silver"}, {0, 0.5, 1});
  draw_x_axis(drawing, panel, {"black", "grey", "silver"}, {0, 5, 10}, {"0", "five"});
  const std::string text = drawing.finish("axes", true);
  CHECK(markup_fault(text, false).empty());
  CHECK(count_of(text, "stroke=\"silver\"") == 3);
  CHECK(count_of(text, "stroke=\"grey\"") == 4);
  CHECK(contains(text, "<line x1=\"40\" y1=\"45\" x2=\"190\" y2=\"45\""));
  CHECK(contains(text, ">0.5</text>"));
  CHECK(contains(text, "<text x=\"115\" y=\"98\""));
  CHECK(contains(text, ">five</text>"));
}
