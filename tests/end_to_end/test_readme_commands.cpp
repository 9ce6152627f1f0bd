// Every command of the README is run here, in the README's order, or stands in a table of those that another test runs
// or that need another machine.
#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/catch.h"
#include "tests/end_to_end/markdown.h"
#include "tests/end_to_end/program.h"
#include "tests/end_to_end/quick_started.h"
#include "tests/end_to_end/terminal.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using namespace test;

// ---- the commands that are run ----

enum class How {
  plain,     // to its end, with status 0
  stopped,   // on a terminal, until it has printed all of `prints`; then Ctrl-C, which makes a run end with 130
  watching,  // likewise; 0 is the status of what only looks
  behind,    // ends in &: it must survive a hang-up; then SIGTERM
};

struct Run {
  std::string command;  // as the README has it
  How how = How::plain;
  std::vector<std::string> prints;               // what its output holds
  std::string after;                             // shell text that must succeed then
  std::string before;                            // likewise, ahead of it
  std::vector<std::array<std::string, 2>> with;  // what stands for words in capitals here, ahead of kPlaceholders
};

const std::vector<std::array<std::string, 2>> kPlaceholders = {
    {"TEXT...", "text.txt more.txt"},  {"TEXT", "text.txt"}, {"CONFIG", "configs/mine.json"},
    {"RUN...", "runs/mine runs/long"}, {"RUN", "runs/mine"}, {"NAME", "mine"},
    {"FOLDER", "export/mine"},         {"PATH", "byte"},     {"N", "3"},
};

const std::string kArms = "{\"data.bos\": [\"sequence\", \"none\"]}";
const std::string kNewRun = "rm -rf runs/mine";
const std::string kLong = "sinkscope train configs/llama-42m.json --set name=long";
const std::string kDataset42m =
    "sinkscope tokenize text.txt --output data/llama-16k --train-sentencepiece 9 --validation-fraction 0.1";
const std::string kFresh = "rm -rf data/llama-16k probe-*";

/// In the order of the README.
const std::vector<Run> kRuns = {
    // First run on your own text
    {"export PATH=$PWD/build/cpu/tools:$PATH", How::plain, {}, "", "", {}},
    {"sinkscope tokenize TEXT --output data/mine --train-sentencepiece 1024 --validation-fraction 0.05",
     How::plain,
     {"data/mine: ", " document", " bytes, ", " training tokens, ", " validation tokens"},
     "test -s data/mine/dataset.json",
     "",
     {}},
    {"sinkscope train configs/mine.json --dry-run",
     How::plain,
     {"\"name\": \"mine\"", "\nparameters        ", "\nFLOPs per token   ", "\ntokens per step   4096 ",
      "\ntokens of the run 3686400 (", "\ndataset           ", "\nmemory         buffer ", "\ntotal  "},
     "test ! -e runs",
     "",
     {}},
    {"sinkscope train configs/quickstart.json --set name=mine --set data.path=data/mine --dry-run",
     How::plain,
     {"\"name\": \"mine\"", "\"path\": \"data/mine\"", "\ntokens of the run 3686400 ("},
     "test ! -e runs",
     "",
     {}},
    {"sinkscope train configs/mine.json",
     How::plain,
     {"what differs from the defaults:", "\nmemory         buffer ", "step 0  start: training of ",
      "\nmine  step 10/40  loss ", "  sink ", " tokens/s  left ", "  Sink_0 ", "  wandering  gradient ", "  l* ",
      "  P0 norm ratio ", "  sample: ", "  checkpoint: checkpoint step_",
      "  end: training ends after 40 steps\nrun: runs/mine\n"},
     "test -s runs/mine/metrics.jsonl",
     "",
     {}},
    {"sinkscope monitor runs/mine", How::watching, {"mine", "step 40", "loss ", "excess "}, "", "", {}},
    {"sinkscope monitor --serve runs/mine", How::watching, {"live page: http://127.0.0.1:"}, "", "", {}},
    {"sinkscope compare runs/mine",
     How::plain,
     {"sink excess P0", "What the numbers say", "/runs/mine/report.html"},
     "test -s runs/mine/report.html",
     "",
     {}},
    {"sinkscope probe runs/mine --causal",
     How::plain,
     {"probe set ", "by layer, natural", "causal tests on ", "written: probe-mine-step_00000040 ("},
     "test -s probe-mine-step_00000040/report.html",
     "",
     {}},
    {"sinkscope export runs/mine --output export/mine",
     How::plain,
     {"exported step 40 of runs/mine/checkpoints/step_00000040 to export/mine"},
     "test -s export/mine/model.safetensors",
     "",
     {}},
    // A run of hours
    {"sinkscope bench configs/llama-42m.json", How::plain, {"\ntokens  ", " /s\n"}, "", kDataset42m, {}},
    {"sinkscope train configs/llama-42m.json --dry-run",
     How::plain,
     {"\ntokens per step   65536 (", "\ntokens of the run 1310720000 (", "\ntotal  "},
     "",
     "",
     {}},
    {"sinkscope train configs/llama-42m.json --set train.micro_batch=32 --set train.gradient_accumulation=4 --set "
     "train.recompute=mlp --dry-run",
     How::plain,
     {"\ntokens per step   65536 (", "\ntotal  "},
     "",
     "",
     {}},
    {kLong,
     How::stopped,
     {"step ", "stopped after step ", "; go on with: " + kLong.substr(0, kLong.find("name")) + "'name=long'"},
     "ls runs/long/checkpoints/step_*/manifest.json",
     "",
     {}},
    {kLong + " --resume", How::stopped, {"resume: resumed from step_", "stopped after step ", " --resume"}, "", "", {}},
    {"nohup " + kLong + " --resume > long.log 2>&1 &",
     How::behind,
     {},
     "grep 'resumed from step_' long.log && grep 'stopped after step' long.log",
     "",
     {}},
    {"srun sinkscope train configs/llama-42m.json --set name=job $([ -d runs/job ] && echo --resume)",
     How::plain,
     {"\nrun: runs/job\n"},
     "srun sinkscope train configs/llama-42m.json --set name=job $([ -d runs/job ] && echo --resume) | grep 'nothing "
     "to resume'",
     "",
     {}},
    {"sinkscope monitor --serve --port 8000 runs/long", How::watching, {"live page: http://127.0.0.1:"}, "", "", {}},
    // Ablations
    {"sinkscope ablate configs/mine.json --set name=mine-bos --set 'ablation=" + kArms + "' --dry-run",
     How::plain,
     {"arm 1 of 2: mine-bos/bos-sequence", "arm 2 of 2: mine-bos/bos-none"},
     "test ! -e runs/mine-bos",
     "",
     {}},
    {"sinkscope ablate configs/mine.json --set name=mine-bos --set 'ablation=" + kArms + "'",
     How::plain,
     {"May the arms be compared?", "report: runs/mine-bos/report.html"},
     "test -s runs/mine-bos/report.html && test -d runs/mine-bos/bos-sequence/checkpoints && test -d "
     "runs/mine-bos/bos-none/checkpoints",
     "",
     {}},
    {"sinkscope train runs/NAME/ARM/arm.json",
     How::plain,
     {"\nrun: runs/mine-bos/bos-none\n"},
     "",
     "cd runs/mine-bos/bos-none && find . -mindepth 1 -maxdepth 1 ! -name arm.json -exec rm -r '{}' +",
     {{"NAME", "mine-bos"}, {"ARM", "bos-none"}}},
    // Reading the charts
    {"sinkscope monitor --serve RUN", How::watching, {"live page: http://127.0.0.1:"}, "", "", {}},
    {"sinkscope compare RUN", How::plain, {"/runs/mine/report.html"}, "", "", {}},
    // Config reference
    {"sinkscope config reference", How::plain, {"| `name` | string |"}, "", "", {}},
    {"sinkscope config schema", How::plain, {"\"$schema\""}, "", "", {}},
    {"sinkscope config show CONFIG", How::plain, {"\"name\": \"mine\"", "\"kv_heads\": 2"}, "", "", {}},
    // Troubleshooting
    {"sinkscope doctor", How::plain, {"Compiled in", "On this machine", "found    OpenMP"}, "", "", {}},
    // Commands
    {"sinkscope tokenize TEXT... --output DIR --tokenizer PATH",
     How::plain,
     {"data/bytes: "},
     "",
     "",
     {{"DIR", "data/bytes"}}},
    {"sinkscope train CONFIG", How::plain, {"\nrun: runs/mine\n"}, "", kNewRun, {}},
    {"sinkscope ablate CONFIG",
     How::plain,
     {"report: runs/grid/report.html"},
     "",
     "sed 's/\"name\": \"mine\",/\"name\": \"grid\", \"ablation\": {\"train.seed\": [1, 2]},/' configs/mine.json > "
     "configs/grid.json",
     {{"CONFIG", "configs/grid.json"}}},
    {"sinkscope compare RUN...",
     How::plain,
     {"Settings that differ", "/runs/report.html"},
     "test -s runs/report.html",
     "",
     {}},
    {"sinkscope monitor RUN...", How::watching, {"mine", "long"}, "", "", {}},
    {"sinkscope probe FOLDER", How::plain, {"probe set "}, "", "", {{"FOLDER", "runs/long"}}},
    {"sinkscope export RUN --output DIR",
     How::plain,
     {"exported step 40"},
     "test -s export/again/config.json",
     "",
     {{"DIR", "export/again"}}},
    {"sinkscope probe-dump FOLDER --output FILE", How::plain, {}, "test -s dump.json", "", {{"FILE", "dump.json"}}},
    {"sinkscope train-dump CONFIG --steps N --output DIR",
     How::plain,
     {},
     "test -s first/training.json",
     "",
     {{"DIR", "first"}}},
    {"sinkscope tokenize TEXT --output data/quickstart --train-sentencepiece 1024 --validation-fraction 0.05",
     How::plain,
     {"data/quickstart: "},
     "",
     "",
     {}},
    {"sinkscope tokenize TEXT --output data/llama-16k --train-sentencepiece 16384 --validation-fraction 0.005",
     How::plain,
     {"data/llama-16k: "},
     "",
     kFresh,
     {}},
    {"sinkscope tokenize TEXT --output data/llama-32k --train-sentencepiece 32000 --validation-fraction 0.005",
     How::plain,
     {"data/llama-32k: "},
     "",
     "",
     {}},
    {"sinkscope tokenize TEXT --output data/gpt2 --tokenizer .cache/gpt2-bpe --validation-fraction 0.005",
     How::plain,
     {"data/gpt2: "},
     "",
     "",
     {}},
    {"sinkscope tokenize TEXT --output data/qwen3 --train-sentencepiece 151936 --validation-fraction 0.005",
     How::plain,
     {"data/qwen3: "},
     "",
     "",
     {}},
    // What is measured
    {"sinkscope monitor --replay RUN",
     How::plain,
     {"phases from ", "bit for bit", "sink excess of position 0 over steps"},
     "",
     "",
     {}},
    {"sinkscope probe FOLDER --causal",
     How::plain,
     {"causal tests on "},
     "",
     "rm -rf probe-*",
     {{"FOLDER", "runs/mine"}}},
    {"sinkscope probe runs/NAME --causal", How::plain, {"causal tests on "}, "", "rm -rf probe-*", {}},
    {"sinkscope probe FOLDER --text FILE --length 128 --causal",
     How::plain,
     {"causal tests on ", "\ntext: "},
     "",
     "rm -rf probe-*",
     {{"FILE", "text.txt"}}},
    // Watch a run
    {"sinkscope monitor runs/bos runs/none",
     How::watching,
     {"bos", "none"},
     "",
     "cp -r runs/long runs/bos && cp -r runs/long runs/none",
     {}},
    {"sinkscope monitor --serve runs/bos runs/none", How::watching, {"live page: http://127.0.0.1:"}, "", "", {}},
    {"sinkscope monitor --serve --port 8000 RUN", How::watching, {"live page: http://127.0.0.1:"}, "", "", {}},
    // What comes out
    {"sinkscope probe runs/NAME --causal --sequences 128", How::plain, {"causal tests on "}, "", "rm -rf probe-*", {}},
    // Build by hand
    {"cmake --install build/cpu --prefix ~/.local",
     How::plain,
     {"bin/sinkscope"},
     "~/.local/bin/sinkscope --version",
     "",
     {{"build/cpu", SINKSCOPE_BUILD_DIRECTORY}}},
    // How fast
    {"sinkscope bench configs/gpt2-124m.json --step --kernels --json bench.json",
     How::plain,
     {"\nmatrix ", "\ntokens  ", "\nbetween operations ", "of what the rates allow"},
     "test -s bench.json",
     "",
     {}},
    {"nsys profile --trace cuda,nvtx --output bench sinkscope bench configs/gpt2-124m.json --set "
     "train.cuda_graph=false",
     How::plain,
     {"\nmatrix ", "\ntokens  "},
     "test -s bench.nsys-rep",
     "",
     {}},
    // Checked against the world
    {"sinkscope train CONFIG && sinkscope train-dump CONFIG --steps 200 --output dump",
     How::plain,
     {"\nrun: runs/mine\n"},
     "test -s dump/training.json",
     kNewRun,
     {}},
};

// ---- the commands that are not ----

struct Elsewhere {
  std::string command, why;
  std::string file, holds;  // the file of the repository that runs it or has what it is for, and the text there
};

const std::vector<Elsewhere> kElsewhere = {
    {"scripts/quickstart", "installs packages and trains for minutes", "tests/end_to_end/test_quickstart.sh",
     "/scripts/quickstart\" \"$@\""},
    {"scripts/test", "runs all tests, this one too", "scripts/test", "ctest --preset \"$preset\" --no-tests=error"},
    {"scripts/setup", "needs the network, and root", "scripts/quickstart", "\nscripts/setup\n"},
    {"scripts/fetch_test_files", "needs the network", "scripts/test", "\nscripts/fetch_test_files ||"},
    {"sinkscope bench CONFIG", "takes seconds, and is run with two configs here", "tests/end_to_end/test_bench.cpp",
     "place.run(\"bench config.json"},
    {"ssh -L 8000:localhost:8000 MACHINE", "needs an sshd; is run together with the next command",
     "tests/end_to_end/test_readme_ssh.sh", "tunnel=$(grep -m 1 '^ssh ' \"$readme\")"},
    {"mpirun -n 4 --bind-to none sinkscope train CONFIG --set threads=2", "needs MPI",
     "tests/comm/test_readme_launchers.sh", "$(line_of mpirun)"},
    {"srun --mpi=pmix --ntasks-per-node=8 --gpus-per-node=8 sinkscope train CONFIG", "needs Slurm and GPUs",
     "tests/comm/test_readme_launchers.sh", "stand_in srun --mpi=pmix --ntasks-per-node=8 --gpus-per-node=8"},
    {"torchrun --nproc-per-node=8 --no-python sinkscope train CONFIG", "needs GPUs",
     "tests/comm/test_readme_launchers.sh", "stand_in torchrun --nproc-per-node=8 --no-python"},
    {"sinkscope bench CONFIG --comm", "is of several ranks", "tests/comm/test_ranks.cpp",
     "\"bench config.json --comm "},
    {"sinkscope convert-llama2c CHECKPOINT --tokenizer FILE --output DIR", "needs a checkpoint of llama2.c",
     "tests/end_to_end/test_convert_llama2c.cpp", "convert-llama2c "},
    {"cmake --preset cpu && cmake --build --preset cpu && ctest --preset cpu", "builds all, runs all tests",
     "scripts/test", "cmake --build --preset \"$preset\""},
    {"ctest --preset cpu -L mpi", "is part of all tests", "tests/comm/CMakeLists.txt", "LABELS mpi)"},
    {"ctest --preset cuda -L multi", "needs GPUs", "tests/comm/CMakeLists.txt", "LABELS multi "},
    {"ctest --preset cuda -L gpu", "needs a GPU", "scripts/gpu_check.sh", "-L gpu --no-tests=error"},
    {"compute-sanitizer build/cuda/tests/gpu/test_gpu \"[sanitize]\"", "needs a GPU", "scripts/gpu_check.sh",
     "\"$build/tests/gpu/test_gpu\" \"${filters[$tool]:-$filter}\""},
    {"scripts/gpu_check.sh", "needs a GPU", "scripts/gpu_check.sh",
     "stages=(build tests several shared sanitize bench nsys torch)"},
    {"scripts/gpu_check.sh tests bench", "needs a GPU", "scripts/gpu_check.sh",
     "build|tests|several|shared|sanitize|bench|nsys|torch)"},
    {"python3 -m venv .cache/interop && .cache/interop/bin/pip install torch transformers tensorboard numpy",
     "is run with small wheels, and where an index answers pip looks there", "tests/end_to_end/test_readme_venv.sh",
     "line=$(grep -m 1 '^python3 -m venv ' \"$source_dir/README.md\")"},
    {"PYTHON=$PWD/.cache/interop/bin/python tests/interop/run", "needs PyTorch; is run with a stand-in for its checks",
     "tests/end_to_end/test_interop.sh", "bash -c \"$line\""},
    {"tests/interop/check_checkpoint.py EXPORT DUMP.json", "needs PyTorch", "tests/interop/run",
     "check_checkpoint.py\""},
    {"tests/interop/check_probe.py EXPORT DIR", "needs PyTorch", "tests/interop/run", "check_probe.py\""},
    {"tests/interop/check_tensorboard.py RUN", "needs tensorboard", "tests/interop/run", "check_tensorboard.py\""},
    {"tests/interop/compare_training.py DUMP RUN", "needs PyTorch", "tests/interop/run", "compare_training.py\""},
    {"tests/interop/compare_training.py dump runs/NAME --precision bf16", "needs PyTorch", "tests/interop/run",
     "compare_training.py\""},
};

// ---- how they are run ----

/// `command` with `from` replaced where it stands as a word of its own, and is no variable.
std::string replaced(std::string command, const std::string& from, const std::string& to) {
  const auto in_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  for (std::size_t at = 0; (at = command.find(from, at)) != std::string::npos;) {
    const std::size_t end = at + from.size();
    const bool begins = at == 0 || (!in_word(command[at - 1]) && command[at - 1] != '$');
    const bool ends = end == command.size() || (!in_word(command[end]) && command[end] != '=') || !in_word(from.back());
    if (begins && ends) command.replace(at, from.size(), to);
    at += begins && ends ? to.size() : from.size();
  }
  return command;
}

/// Whether this build can run it.
bool possible([[maybe_unused]] const std::string& command) {
#ifndef SINKSCOPE_HTTPLIB
  if (contains(command, "--serve")) return false;
#endif
#ifndef SINKSCOPE_SENTENCEPIECE
  if (contains(command, "--text")) return false;
#endif
  return true;
}

void run_command(const QuickStarted& place, const Run& run) {
  std::string command = run.command;
  for (const auto& [from, to] : run.with) command = replaced(command, from, to);
  for (const auto& [from, to] : kPlaceholders) command = replaced(command, from, to);
  INFO(run.command << "\nrun as: " << command);
  if (!possible(command)) return;
  const auto helps = [&](const std::string& text) {
    if (text.empty()) return;
    const Outcome outcome = outcome_of(place.script(text));
    INFO(text << "\n" << outcome.output);
    REQUIRE(outcome.status == 0);
  };
  helps(run.before);
  if (run.how == How::behind)
    command +=
        "\nprogram=$!; for i in $(seq 600); do [ -s long.log ] && grep -q resumed long.log && break; sleep 0.1; done; "
        "kill -HUP $program; sleep 0.5; kill -TERM $program; wait $program; [ $? = 143 ]";
  if (run.how == How::plain || run.how == How::behind) {
    const Outcome outcome = outcome_of(place.script(command));
    INFO(outcome.output);
    REQUIRE(outcome.status == 0);
    for (const std::string& part : run.prints) {
      INFO("expected: " << part);
      CHECK(contains(outcome.output, part));
    }
  } else {
    Terminal terminal(place.script("exec " + command));
    // A run says how to go on only once it is stopped.
    std::vector<std::string> first = run.prints;
    if (run.how == How::stopped) {
      std::erase_if(first, [](const std::string& part) {
        return part.starts_with("stopped") || contains(part, "--") || contains(part, "go on");
      });
      first.push_back(" tokens/s  left ");
    }
    const bool printed = terminal.wait_for(first);
    INFO(terminal.output());
    REQUIRE(printed);
    terminal.press_control_c();
    const int status = terminal.status();
    INFO(terminal.output());
    CHECK(status == (run.how == How::stopped ? 130 : 0));
    for (const std::string& part : run.prints) CHECK(contains(terminal.output(), part));
  }
  helps(run.after);
}

TEST_CASE("every command of the README is accounted for, and nothing else") {
  const Markdown markdown = readme();
  std::vector<std::string> run, elsewhere;
  for (const Run& entry : kRuns) run.push_back(entry.command);
  for (const Elsewhere& entry : kElsewhere) elsewhere.push_back(entry.command);
  const auto has = [](const std::vector<std::string>& list, const std::string& command) {
    return std::find(list.begin(), list.end(), command) != list.end();
  };
  std::vector<std::string> spoken = markdown.commands;
  spoken.insert(spoken.end(), markdown.names.begin(), markdown.names.end());
  for (const std::string& command : markdown.commands) {
    INFO("the README has: " << command);
    CHECK(has(run, command) + has(elsewhere, command) == 1);
  }
  for (const std::string& command : run) {
    INFO("is run, and no longer in the README: " << command);
    CHECK(has(spoken, command));
  }
  for (const Elsewhere& entry : kElsewhere) {
    INFO("is excused (" << entry.why << "): " << entry.command);
    CHECK(has(spoken, entry.command));
    CHECK(!entry.why.empty());
    CHECK(contains(read_file(repository() / entry.file), entry.holds));
    const std::string word =
        entry.command.substr(entry.command.starts_with("PYTHON=") ? entry.command.find(' ') + 1 : 0);
    if (!word.starts_with("scripts/") && !word.starts_with("tests/")) continue;
    const fs::path file = repository() / word.substr(0, word.find(' '));
    REQUIRE(fs::exists(file));
    CHECK((fs::status(file).permissions() & fs::perms::owner_exec) != fs::perms::none);
  }
  const Workplace place;
  for (const std::string& name : markdown.names) {
    INFO("the README speaks of: " << name);
    CHECK(contains(place.run(name.substr(name.find(' ') + 1) + " --help").output,
                   "\nUsage: " + name + " "));  // not that of all
  }
}

TEST_CASE("the commands of the README do what it says, in its order") {
  const Markdown markdown = readme();
  const QuickStarted place;
  for (const Fence& fence : markdown.fences)
    if (fence.section == "First run on your own text" && fence.language == "json")
      write_file(place.path() / "configs/mine.json", fence.body);
  REQUIRE(fs::exists(place.path() / "configs/mine.json"));
  std::vector<std::string> order = markdown.commands;
  for (const Run& run : kRuns)
    if (std::find(order.begin(), order.end(), run.command) == order.end())
      order.push_back(run.command);  // a name: `sinkscope doctor`
  for (const std::string& command : order) {
    const auto found = std::find_if(kRuns.begin(), kRuns.end(), [&](const Run& run) { return run.command == command; });
    if (found != kRuns.end()) run_command(place, *found);
  }
}

}  // namespace
}  // namespace sinkscope
