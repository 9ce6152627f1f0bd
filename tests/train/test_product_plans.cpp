#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>

#include "engine/train/product_plans.h"
#include "tests/catch.h"
#include "tests/files.h"

using namespace sinkscope;

namespace {

std::string text_of(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

std::string never() { throw std::logic_error("timed again"); }

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("an algorithm is timed once, and later processes find it") {
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "a" / "products.json";
  ProductPlans plans(file);
  CHECK(plans.choose("one", [] { return std::string("1a"); }) == "1a");
  CHECK(plans.choose("two", [] { return std::string("2b"); }) == "2b");
  CHECK(plans.choose("one", never) == "1a");
  CHECK(text_of(file) == "{\n \"one\": \"1a\",\n \"two\": \"2b\"\n}\n");
  ProductPlans later(file);
  CHECK(later.choose("two", never) == "2b");
  CHECK(later.choose("three", [] { return std::string("3c"); }) == "3c");
  CHECK(ProductPlans(file).choose("one", never) == "1a");
  // What a process has answered it goes on to answer, whatever became of the file.
  std::filesystem::remove(file);
  CHECK(plans.choose("two", never) == "2b");
}

TEST_CASE("of processes that meet a product at once one times it") {
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "products.json", timings = folder.path() / "timings";
  constexpr int kProcesses = 4;
  for (int process = 0; process < kProcesses; ++process) {
    if (fork() != 0) continue;
    bool same = false;
    try {
      ProductPlans plans(file);
      const std::string chosen = plans.choose("product", [&] {
        std::ofstream(timings, std::ios::app) << "x" << std::flush;
        usleep(100'000);
        return std::string("of ") + std::to_string(process);
      });
      same = ProductPlans(file).choose("product", never) == chosen;
    } catch (...) {
    }
    _exit(same ? 0 : 1);
  }
  for (int process = 0; process < kProcesses; ++process) {
    int status = 0;
    REQUIRE(wait(&status) > 0);
    CHECK(status == 0);
  }
  CHECK(text_of(timings) == "x");
}

TEST_CASE("timing that fails leaves no entry, and the next in line gets its turn") {
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "products.json";
  ProductPlans plans(file);
  CHECK_THROWS_WITH(plans.choose("one", []() -> std::string { throw std::runtime_error("no GPU any more"); }), "no GPU any more");
  CHECK_FALSE(std::filesystem::exists(file));
  CHECK(ProductPlans(file).choose("one", [] { return std::string("1a"); }) == "1a");
}

TEST_CASE("a damaged record is an error that names it, and stays as it is") {
  const auto [content, what] = GENERATE(table<std::string, std::string>({{"{\"one\": \"1a\"", "is no JSON object"},
                                                                         {"[1]", "is no JSON object"},
                                                                         {"", "is no JSON object"},
                                                                         {"{\"one\": 3}", "\"one\" is 3, expected"},
                                                                         {"{\"two\": \"\"}", "\"two\" is \"\", expected"}}));
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "products.json";
  std::ofstream(file) << content;
  ProductPlans plans(file);
  const std::string message = error_of([&] { plans.choose("new", [] { return std::string("4d"); }); });
  INFO(message);
  CHECK(message.find(file.string() + ": " + what) == 0);
  CHECK(message.find("delete the file") != std::string::npos);
  CHECK(text_of(file) == content);
}

TEST_CASE("a record that cannot be kept is an error of the folder") {
  const test::TemporaryFolder folder;
  const std::filesystem::path place = folder.path() / "file";
  std::ofstream(place) << "x";
  CHECK(error_of([&] { ProductPlans(place / "products.json"); }).find(place.string() + ": cannot make the folder") == 0);
  setenv("SINKSCOPE_CACHE", place.c_str(), 1);
  CHECK_FALSE(choose_by_record());
  setenv("SINKSCOPE_CACHE", (folder.path() / "cache").c_str(), 1);
  const ChooseAlgorithm choose = choose_by_record();
  unsetenv("SINKSCOPE_CACHE");
  REQUIRE(choose);
  CHECK(choose("one", [] { return std::string("1a"); }) == "1a");
  CHECK(std::filesystem::exists(folder.path() / "cache" / "products.json"));
}

TEST_CASE("the record lies where the first variable says that is set") {
  std::map<std::string, std::string> variables = {{"HOME", "/home/a"}};
  const auto place = [&]() -> std::string {
    const auto file = product_plans_file([&](const char* name) {
      const auto found = variables.find(name);
      return found == variables.end() ? nullptr : found->second.c_str();
    });
    return file ? file->string() : "none";
  };
  CHECK(place() == "/home/a/.cache/sinkscope/products.json");
  variables["XDG_CACHE_HOME"] = "/cache";
  CHECK(place() == "/cache/sinkscope/products.json");
  variables["SINKSCOPE_CACHE"] = "/own";
  CHECK(place() == "/own/products.json");
  variables["SINKSCOPE_CACHE"] = "";
  CHECK(place() == "/cache/sinkscope/products.json");
  variables.clear();
  CHECK(place() == "none");
}
