#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>

#include "engine/train/product_record.h"
#include "tests/catch.h"
#include "tests/files.h"

using namespace sinkscope;

namespace {

std::string text_of(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

ProductRecord opened(const std::filesystem::path& file) {
  ProductRecord record(file);
  record.expect_writable();
  return record;
}

/// Puts back the variables that say where the record is.
class Variables {
 public:
  Variables() {
    for (const char* name : kNames)
      if (const char* value = std::getenv(name)) values_[name] = value;
  }
  ~Variables() {
    for (const char* name : kNames) {
      const auto value = values_.find(name);
      value == values_.end() ? unsetenv(name) : setenv(name, value->second.c_str(), 1);
    }
  }
  Variables(const Variables&) = delete;
  Variables& operator=(const Variables&) = delete;

 private:
  static constexpr const char* kNames[] = {"SINKSCOPE_CACHE", "XDG_CACHE_HOME", "HOME"};
  std::map<std::string, std::string> values_;
};

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
  ProductRecord record = opened(file);
  CHECK(record.choose("one", [] { return std::string("1a"); }) == "1a");
  CHECK(record.choose("two", [] { return std::string("2b"); }) == "2b");
  CHECK(record.choose("one", never) == "1a");
  CHECK(text_of(file) == "{\n \"one\": \"1a\",\n \"two\": \"2b\"\n}\n");
  ProductRecord later(file);
  CHECK(later.choose("two", never) == "2b");
  CHECK(later.choose("three", [] { return std::string("3c"); }) == "3c");
  CHECK(ProductRecord(file).choose("one", never) == "1a");
  // What a process has answered it goes on to answer, whatever became of the file.
  std::filesystem::remove(file);
  CHECK(record.choose("two", never) == "2b");
}

TEST_CASE("of processes that meet a product at once one times it") {
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "products.json", timings = folder.path() / "timings";
  constexpr int kProcesses = 4;
  for (int process = 0; process < kProcesses; ++process) {
    if (fork() != 0) continue;
    bool same = false;
    try {
      ProductRecord record = opened(file);
      const std::string chosen = record.choose("product", [&] {
        std::ofstream(timings, std::ios::app) << "x" << std::flush;
        usleep(100'000);
        return std::string("of ") + std::to_string(process);
      });
      same = ProductRecord(file).choose("product", never) == chosen;
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
  ProductRecord record = opened(file);
  CHECK_THROWS_WITH(record.choose("one", []() -> std::string { throw std::runtime_error("no GPU any more"); }),
                    "no GPU any more");
  CHECK_FALSE(std::filesystem::exists(file));
  CHECK(ProductRecord(file).choose("one", [] { return std::string("1a"); }) == "1a");
}

TEST_CASE("a product on record waits for nobody, not even for who is timing another") {
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "products.json";
  ProductRecord record = opened(file);
  CHECK(record.choose("one", [] { return std::string("1a"); }) == "1a");
  CHECK(record.choose("two", [&] { return opened(file).choose("one", never); }) == "1a");  // under the lock
}

TEST_CASE("timing that names no algorithm is not put on record") {
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "products.json";
  CHECK_THROWS_WITH(opened(file).choose("one", [] { return std::string(); }),
                    "ProductRecord: timing \"one\" gave no algorithm");
  CHECK_FALSE(std::filesystem::exists(file));
}

TEST_CASE("a damaged record is an error that names it, and stays as it is") {
  const auto [content, what] =
      GENERATE(table<std::string, std::string>({{"{\"one\": \"1a\"", ":1:13: "},
                                                {"[1]", ": is a list, expected an object"}, {"", ":1:1: "},
                                                {"{\"one\": \"1a\", \"one\": \"2b\"}", ": "},
                                                {"{\"one\": 3}", ": \"one\" is the integer 3, expected"},
                                                {"{\"two\": \"\"}", ": \"two\" is the string \"\", expected"}}));
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "products.json";
  std::ofstream(file) << content;
  ProductRecord record = opened(file);
  const std::string message = error_of([&] { record.choose("new", [] { return std::string("4d"); }); });
  INFO(message);
  CHECK(message.find(file.string() + what) == 0);
  CHECK(message.find("; delete the file, and products are timed anew") != std::string::npos);
  CHECK(error_of([&] { static_cast<void>(record.size()); }) == message);
  CHECK(text_of(file) == content);
}

TEST_CASE("a record that cannot be kept is an error of the folder, after which nothing is timed") {
  const test::TemporaryFolder folder;
  const std::filesystem::path place = folder.path() / "file";
  std::ofstream(place) << "x";
  CHECK(error_of([&] {
          ProductRecord(place / "products.json").expect_writable();
        }).find(place.string() + ": cannot make the folder") == 0);
  const Variables variables;
  setenv("SINKSCOPE_CACHE", place.c_str(), 1);
  CHECK_FALSE(choose_by_record(false));
  setenv("SINKSCOPE_CACHE", (folder.path() / "cache").c_str(), 1);
  const ChooseAlgorithm choose = choose_by_record(false);
  REQUIRE(choose);
  CHECK(choose("one", [] { return std::string("1a"); }) == "1a");
  CHECK(ProductRecord(folder.path() / "cache" / "products.json").size() == 1);
}

TEST_CASE("another user's record is added to, and one that could not be replaced is refused before anything is timed") {
  if (::geteuid() != 0) {
    WARN("not tested: only root has files of two users");
    return;
  }
  const test::TemporaryFolder folder;
  const std::filesystem::path file = folder / "products.json";
  CHECK(opened(file).choose("one", [] { return "a"; }) == "a");
  const auto all = std::filesystem::perms::all, sticky = std::filesystem::perms::sticky_bit;
  std::filesystem::permissions(folder.path(), all | sticky);
  {
    const test::Unprivileged user;
    REQUIRE(user.holds());
    CHECK(error_of([&] { opened(file); }) == file.string() + ": cannot replace: Operation not permitted");
  }
  std::filesystem::permissions(folder.path(), all);
  const test::Unprivileged user;
  ProductRecord record = opened(file);  // whose lock only root may write to
  CHECK(record.choose("one", [] { return "b"; }) == "a");
  CHECK(record.choose("two", [] { return "b"; }) == "b");
  CHECK(record.size() == 2);
}

TEST_CASE("the record lies where the first variable says that is set") {
  const Variables variables;
  unsetenv("SINKSCOPE_CACHE");
  unsetenv("XDG_CACHE_HOME");
  setenv("HOME", "/home/a", 1);
  CHECK(product_record_file() == "/home/a/.cache/sinkscope/products.json");
  setenv("XDG_CACHE_HOME", "/cache", 1);
  CHECK(product_record_file() == "/cache/sinkscope/products.json");
  setenv("SINKSCOPE_CACHE", "/own", 1);
  CHECK(product_record_file() == "/own/products.json");
  setenv("SINKSCOPE_CACHE", "", 1);
  CHECK(product_record_file() == "/cache/sinkscope/products.json");
  unsetenv("XDG_CACHE_HOME");
  unsetenv("HOME");
  CHECK(product_record_file().empty());
  CHECK_FALSE(choose_by_record(false));
}
