#include "tests/end_to_end/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <thread>

#include "engine/metrics/json_lines.h"

namespace sinkscope::test {
namespace {

constexpr const char* kConfig = R"({
  "name": "small",
  "threads": 2,
  "model": {"preset": "llama", "layers": 3, "channels": 16, "heads": 2, "hidden": 24},
  "data": {"path": "data", "bos": "sequence"},
  "train": {
    "steps": 60, "micro_batch": 4, "sequence_length": 32,
    "optimizer": {"learning_rate": 0.01}, "schedule": {"warmup_steps": 5}
  },
  "evaluation": {"every": 20, "batches": 2},
  "probes": {"every": 10, "sequences": 4, "short_length": 16, "positions": 4},
  "checkpoint": {"every": 7},
  "ablation": {"data.bos": ["sequence", "none"]}
})";

std::string sentences() {
  const std::vector<std::string> words = {"the",    "whale", "and", "ship",  "sea",
                                          "nation", "of",    "a",   "white", "captain"};
  std::mt19937 generator(11);
  std::string text;
  for (int i = 0; i < 4000; ++i) {
    text += words[generator() % words.size()];
    text += i % 13 == 12 ? ".\n" : " ";
    if (i % 200 == 199) text += "\n<|endoftext|>\n";
  }
  return text;
}

}  // namespace

Workplace::Workplace() {
  std::signal(SIGHUP, SIG_DFL);  // which is ignored where the tests run under nohup, and then by the program too
  write("text.txt", sentences());
  write("config.json", kConfig);
  const Outcome outcome = run("tokenize text.txt --output data --tokenizer byte --validation-fraction 0.2");
  if (outcome.status != 0) throw std::runtime_error("tokenize failed: " + outcome.output);
}

Outcome Workplace::run(const std::string& arguments, const std::string& before) const {
  const char* moved = std::getenv("SINKSCOPE_PROGRAM");  // where the tests were built on another machine
  const std::string program = moved == nullptr ? SINKSCOPE_PROGRAM : moved;
  const std::string command =
      "cd '" + path().string() + "' && { " + before + " '" + program + "' " + arguments + "; } 2>&1 </dev/null";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  Outcome outcome;
  char buffer[4096];
  for (std::size_t n = 0; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) outcome.output.append(buffer, n);
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

bool Workplace::run_and_kill(const std::vector<std::string>& arguments, int milliseconds) const {
  std::vector<std::string> words = {SINKSCOPE_PROGRAM};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork failed");
  if (child == 0) {
    const int null = open("/dev/null", O_RDWR);
    if (null < 0 || chdir(path().c_str()) != 0) _exit(127);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    execv(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  while (std::chrono::steady_clock::now() < end) {
    if (waitpid(child, &status, WNOHANG) == child) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return WIFSIGNALED(status);
}

void Workplace::write(const std::string& file, const std::string& content) const { write_file(path() / file, content); }

std::string Workplace::read(const std::string& file) const { return read_file(path() / file); }

std::vector<std::string> timeless_lines(const std::filesystem::path& file) {
  std::vector<std::string> lines;
  for_each_json_line(file, [&](const nlohmann::ordered_json& json, const std::string&) {
    nlohmann::ordered_json kept = json;
    kept.erase("step_seconds");
    kept.erase("tokens_per_second");
    kept.erase("mfu");
    if (kept.value("kind", std::string()) == "resume") return;
    if (kept.value("kind", std::string()) == "start") kept.erase("message");  // says "again" after an early kill
    lines.push_back(kept.dump());
  });
  return lines;
}

}  // namespace sinkscope::test
