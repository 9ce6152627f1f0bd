#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/metrics/json_lines.h"
#include "engine/metrics/sinks.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using test::contains;
using test::FileSizeLimit;
using test::message_of;
using test::read_file;
using test::TemporaryFolder;
using test::write_file;

namespace {

// Steps 1..count with a probe pass at every even step, an event at every third.
void write_run(MetricSink& sink, std::int64_t first, std::int64_t last) {
  for (std::int64_t step = first; step <= last; ++step) {
    sink.write(test::example_step(step));
    if (step % 2 == 0) sink.write(test::example_probe(step));
    if (step % 3 == 0) sink.write(EventRecord{step, step * 1024, "checkpoint", "step", "{}"});
  }
}

template <class Record>
std::vector<std::int64_t> steps_of(const std::vector<Record>& records) {
  std::vector<std::int64_t> steps;
  for (const Record& record : records) steps.push_back(record.step);
  return steps;
}

}  // namespace

TEST_CASE("a run's logs are one JSON object a line, and are read back") {
  const TemporaryFolder folder;
  const auto run = folder.path() / "runs" / "new";
  const auto sink = make_jsonl_sink(run, std::nullopt);
  write_run(*sink, 1, 6);
  // Before any flush: what was written is already with the operating system.
  for (const char* name : {"metrics.jsonl", "probes.jsonl", "events.jsonl"}) {
    std::istringstream text(read_file(run / name));
    std::string line;
    while (std::getline(text, line)) CHECK(nlohmann::json::parse(line).is_object());
    CHECK(read_file(run / name).back() == '\n');
  }
  sink->flush(false);
  sink->flush(true);
  CHECK(steps_of(read_step_records(run)) == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6});
  CHECK(steps_of(read_probe_records(run)) == std::vector<std::int64_t>{2, 4, 6});
  CHECK(steps_of(read_event_records(run)) == std::vector<std::int64_t>{3, 6});
  CHECK(read_step_records(run).at(4).loss == test::example_step(5).loss);
}

TEST_CASE("a new run does not touch the logs of another") {
  const TemporaryFolder folder;
  write_file(folder.path() / "probes.jsonl", "{}\n");
  const std::string error = message_of([&] { make_jsonl_sink(folder.path(), std::nullopt); });
  CHECK(contains(error, "probes.jsonl"));
  CHECK(contains(error, "exists"));
  CHECK(read_file(folder.path() / "probes.jsonl") == "{}\n");
  CHECK_FALSE(std::filesystem::exists(folder.path() / "metrics.jsonl"));
}

TEST_CASE("a torn last line is left out by the readers") {
  const TemporaryFolder folder;
  { write_run(*make_jsonl_sink(folder.path(), std::nullopt), 1, 3); }
  const auto path = folder.path() / "metrics.jsonl";
  const std::string whole = read_file(path);
  const std::size_t last_line = whole.rfind('\n', whole.size() - 2) + 1;
  for (std::size_t size = last_line + 1; size < whole.size() - 1; size += 7) {
    write_file(path, whole.substr(0, size));
    CHECK(read_step_records(folder.path()).size() == 2);
  }
  write_file(path, whole.substr(0, last_line));
  CHECK(read_step_records(folder.path()).size() == 2);
  // Only the newline is missing: the record is whole.
  write_file(path, whole.substr(0, whole.size() - 1));
  CHECK(read_step_records(folder.path()).size() == 3);
  // Zeros, as a file system leaves them after a power cut.
  write_file(path, whole + std::string(300, '\0'));
  CHECK(read_step_records(folder.path()).size() == 3);
  write_file(path, "");
  CHECK(read_step_records(folder.path()).empty());
}

TEST_CASE("a malformed line that is not the torn last one names file and line") {
  const TemporaryFolder folder;
  { write_run(*make_jsonl_sink(folder.path(), std::nullopt), 1, 3); }
  const auto path = folder.path() / "metrics.jsonl";
  const std::string whole = read_file(path);
  const std::size_t second = whole.find('\n') + 1;
  const auto read = [&] { read_step_records(folder.path()); };

  write_file(path, whole.substr(0, second) + "{\"step\":2,\n" + whole.substr(second));
  CHECK(contains(message_of(read), "metrics.jsonl:2: "));
  CHECK(contains(message_of([&] { make_jsonl_sink(folder.path(), 2); }), "metrics.jsonl:2: "));

  write_file(path, whole.substr(0, second) + "\n" + whole.substr(second));
  CHECK(contains(message_of(read), "metrics.jsonl:2: "));

  write_file(path, whole + "{\"step\":4}\n");
  CHECK(contains(message_of(read), "metrics.jsonl:4: key 'tokens' is missing"));

  write_file(path, whole + "{\"tokens\":4}\n");
  const std::string before = read_file(path);
  CHECK(contains(message_of([&] { make_jsonl_sink(folder.path(), 2); }), "metrics.jsonl:4: key 'step' is missing"));
  CHECK(read_file(path) == before);

  std::filesystem::remove(path);
  CHECK(contains(message_of(read), "metrics.jsonl: cannot open: No such file"));
}

TEST_CASE("after a resume the logs hold each step once") {
  const TemporaryFolder folder, whole;
  { write_run(*make_jsonl_sink(whole.path(), std::nullopt), 1, 12); }
  { write_run(*make_jsonl_sink(folder.path(), std::nullopt), 1, 9); }
  // Killed in the middle of a line.
  const auto path = folder.path() / "metrics.jsonl";
  write_file(path, read_file(path) + R"({"step":10,"tok)");
  { write_run(*make_jsonl_sink(folder.path(), 6), 7, 12); }
  for (const char* name : {"metrics.jsonl", "probes.jsonl", "events.jsonl"}) {
    CHECK(read_file(folder.path() / name) == read_file(whole.path() / name));
  }
  // Nothing but the logs is left behind.
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 3);
}

TEST_CASE("events of later steps go at a resume, resumes among them") {
  const TemporaryFolder folder;
  {
    const auto sink = make_jsonl_sink(folder.path(), std::nullopt);
    sink->write(EventRecord{0, 0, "start", "", "{}"});
    sink->write(EventRecord{4, 4, "resume", "", "{}"});
    sink->write(EventRecord{8, 8, "resume", "", "{}"});
    sink->write(EventRecord{8, 8, "warning", "", "{}"});
  }
  make_jsonl_sink(folder.path(), 4);
  CHECK(steps_of(read_event_records(folder.path())) == std::vector<std::int64_t>{0, 4});
}

TEST_CASE("a resume works where logs are missing, links, or lack a newline") {
  const TemporaryFolder folder;
  const auto elsewhere = folder.path() / "elsewhere.jsonl";
  const auto run = folder.path() / "run";
  std::filesystem::create_directory(run);
  std::string lines;
  for (std::int64_t step = 1; step <= 3; ++step) lines += to_line(to_json(test::example_step(step)));
  lines.pop_back();
  write_file(elsewhere, lines);
  std::filesystem::create_symlink(elsewhere, run / "metrics.jsonl");
  make_jsonl_sink(run, 3)->write(test::example_step(4));
  CHECK(steps_of(read_step_records(run)) == std::vector<std::int64_t>{1, 2, 3, 4});
  make_jsonl_sink(run, 2)->write(test::example_step(3));
  CHECK(std::filesystem::is_symlink(run / "metrics.jsonl"));
  CHECK(read_file(elsewhere) == lines + "\n");
  CHECK(read_probe_records(run).empty());
}

TEST_CASE("a full disk is an error naming the file, and earlier lines stay whole") {
  const TemporaryFolder folder;
  const auto sink = make_jsonl_sink(folder.path(), std::nullopt);
  sink->write(test::example_step(1));
  const std::string before = read_file(folder.path() / "metrics.jsonl");
  std::string error;
  {
    const FileSizeLimit limit(before.size() + 100);  // the second line fits in part
    error = message_of([&] { sink->write(test::example_step(2)); });
  }
  CHECK(contains(error, (folder.path() / "metrics.jsonl").string()));
  CHECK(contains(error, "cannot write"));
  CHECK(read_file(folder.path() / "metrics.jsonl") == before);
  // There is room again: the log goes on with a whole line.
  sink->write(test::example_step(2));
  CHECK(read_step_records(folder.path()).size() == 2);

  // A rewrite that does not fit leaves the old file.
  const std::string both = read_file(folder.path() / "metrics.jsonl");
  {
    const FileSizeLimit limit(100);
    error = message_of([&] { make_jsonl_sink(folder.path(), 1); });
  }
  CHECK(contains(error, "metrics.jsonl"));
  CHECK(read_file(folder.path() / "metrics.jsonl") == both);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 3);
}

TEST_CASE("a tee writes to all of its sinks") {
  const TemporaryFolder first, second;
  std::vector<std::unique_ptr<MetricSink>> sinks;
  sinks.push_back(make_jsonl_sink(first.path(), std::nullopt));
  sinks.push_back(make_jsonl_sink(second.path(), std::nullopt));
  const auto tee = make_tee(std::move(sinks));
  write_run(*tee, 1, 3);
  tee->flush(true);
  for (const char* name : {"metrics.jsonl", "probes.jsonl", "events.jsonl"}) {
    CHECK(read_file(first.path() / name) == read_file(second.path() / name));
    CHECK_FALSE(read_file(first.path() / name).empty());
  }
}
