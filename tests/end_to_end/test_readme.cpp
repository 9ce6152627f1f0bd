// Every command of the README is run here, in the README's order, or stands in a table of those that another test runs
// or that need another machine; every message that its troubleshooting section quotes is provoked and compared.
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/train/alerts.h"
#include "engine/train/run_memory.h"
#include "tests/catch.h"
#include "tests/end_to_end/program.h"
#include "tests/files.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using test::contains;
using test::Outcome;
using test::Workplace;

// ---- what the README says ----

struct Fence {
  std::string language, body, section;  // section: the heading of level 2 that it stands under
};

struct Markdown {
  std::vector<Fence> fences;
  std::vector<std::string> commands;  // of ```bash blocks, a line each, and of inline code; in order, each once
  std::vector<std::string> names;     // inline `sinkscope WORD`, a command that is spoken of
};

std::string trimmed(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t\n"), end = text.find_last_not_of(" \t\n");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

/// Without the comment at its end.
std::string command_of_line(const std::string& line) {
  if (line.starts_with("#")) return "";
  return trimmed(line.substr(0, line.find(" #")));
}

bool is_command(const std::string& code) {
  static const std::vector<std::string> kBegins = {
      "sinkscope ", "scripts/", "cmake ", "ctest", "tests/interop/", "ssh ",  "python3 ",           "pip ",  "npm ",
      "nsys ",      "cp ",      "nohup ", "srun ", "export ",        "curl ", "compute-sanitizer ", "bash ", "sudo "};
  return std::any_of(kBegins.begin(), kBegins.end(), [&](const std::string& begin) { return code.starts_with(begin); });
}

/// Code between backticks, which may go over the end of a line; in a table \| stands for |.
void read_inline(const std::string& text, Markdown& markdown) {
  for (std::size_t begin = 0; (begin = text.find('`', begin)) != std::string::npos;) {
    const std::size_t end = text.find('`', begin + 1);
    if (end == std::string::npos) throw std::runtime_error("a backtick without another: " + text.substr(begin, 80));
    std::string code;
    for (std::size_t i = begin + 1; i < end; ++i)
      if (text[i] != '\\' || text[i + 1] != '|') code += text[i] == '\n' ? ' ' : text[i];
    begin = end + 1;
    if (!is_command(code)) continue;
    const bool name = code.starts_with("sinkscope ") && code.find(' ') == code.rfind(' ');
    (name ? markdown.names : markdown.commands).push_back(code);
  }
}

Markdown read_markdown(const std::string& text) {
  Markdown markdown;
  std::string prose, section;
  Fence* open = nullptr;
  std::size_t begin = 0;
  const auto end_prose = [&] {
    read_inline(prose, markdown);
    prose.clear();
  };
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.starts_with("```")) {
      if (open == nullptr) {
        end_prose();
        open = &markdown.fences.emplace_back(Fence{line.substr(3), "", section});
      } else {
        if (open->language == "bash" && open->body.find("\\\n") != std::string::npos)
          throw std::runtime_error("a command of several lines: " + open->body);
        open = nullptr;
      }
    } else if (open != nullptr) {
      open->body += line + "\n";
      if (open->language == "bash" && !command_of_line(line).empty())
        markdown.commands.push_back(command_of_line(line));
    } else {
      if (line.starts_with("## ")) section = line.substr(3);
      if (line.empty()) end_prose();
      prose += line + "\n";
    }
  }
  end_prose();
  std::vector<std::string> once;
  for (const std::string& command : markdown.commands)
    if (std::find(once.begin(), once.end(), command) == once.end()) once.push_back(command);
  markdown.commands = once;
  return markdown;
}

Markdown readme() { return read_markdown(test::read_file(SINKSCOPE_README)); }

fs::path repository() { return fs::path(SINKSCOPE_README).parent_path(); }

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
     {"data/mine: ", " documents, ", " bytes, ", " training tokens, ", " validation tokens"},
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
    {"sinkscope bench configs/gpt2-124m.json --kernels --json bench.json",
     How::plain,
     {"\nmatrix ", "\ntokens  ", "of what the rates allow"},
     "test -s bench.json",
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
  std::string file, holds;  // the file of the repository that runs it, and the text there
};

const std::vector<Elsewhere> kElsewhere = {
    {"scripts/quickstart", "installs packages and trains for minutes", "tests/end_to_end/test_quickstart.sh",
     "/scripts/quickstart\" \"$@\""},
    {"scripts/test", "runs all tests, this one too", "scripts/test", "ctest --preset \"$preset\" --no-tests=error"},
    {"scripts/setup", "needs the network, and root", "scripts/quickstart", "\nscripts/setup\n"},
    {"scripts/fetch_test_files", "needs the network", "scripts/test", "\nscripts/fetch_test_files ||"},
    {"sinkscope bench CONFIG", "takes seconds, and is run with two configs here", "tests/end_to_end/test_bench.cpp",
     "place.run(\"bench config.json"},
    {"ssh -L 8000:localhost:8000 MACHINE", "needs another machine", "", ""},
    {"sinkscope convert-llama2c CHECKPOINT --tokenizer FILE --output DIR", "needs a checkpoint of llama2.c",
     "tests/end_to_end/test_convert_llama2c.cpp", "convert-llama2c "},
    {"cmake --preset cpu && cmake --build --preset cpu && ctest --preset cpu", "builds all, runs all tests",
     "scripts/test", "cmake --build --preset \"$preset\""},
    {"ctest --preset cuda -L gpu", "needs a GPU", "scripts/gpu_check.sh", "-L gpu --no-tests=error"},
    {"compute-sanitizer build/cuda/tests/gpu/test_gpu \"[sanitize]\"", "needs a GPU", "scripts/gpu_check.sh",
     "\"$build/tests/gpu/test_gpu\" \"${SANITIZE_FILTER:-[sanitize]}\""},
    {"nsys profile --trace cuda,nvtx sinkscope bench ...", "needs a GPU and Nsight Systems", "", ""},
    {"scripts/gpu_check.sh", "needs a GPU", "scripts/gpu_check.sh", "stages=(build tests sanitize bench torch)"},
    {"scripts/gpu_check.sh tests bench", "needs a GPU", "scripts/gpu_check.sh", "build|tests|sanitize|bench|torch)"},
    {"python3 -m venv .cache/interop && .cache/interop/bin/pip install torch transformers tensorboard numpy",
     "needs the network", "", ""},
    {"PYTHON=$PWD/.cache/interop/bin/python tests/interop/run", "needs PyTorch", "tests/end_to_end/test_interop.sh",
     "PYTHON=$place/python \"$source_dir/tests/interop/run\""},
    {"tests/interop/check_checkpoint.py EXPORT DUMP.json", "needs PyTorch", "tests/interop/run",
     "check_checkpoint.py\""},
    {"tests/interop/check_probe.py EXPORT DIR", "needs PyTorch", "tests/interop/run", "check_probe.py\""},
    {"tests/interop/check_tensorboard.py RUN", "needs tensorboard", "tests/interop/run", "check_tensorboard.py\""},
    {"tests/interop/compare_training.py DUMP RUN", "needs PyTorch", "tests/interop/compare_training.py", "\"dump\""},
    {"tests/interop/compare_training.py dump runs/NAME --precision bf16", "needs PyTorch",
     "tests/interop/compare_training.py", "\"--precision\""},
};

// ---- the place where they run ----

/// The program with the user's own words, and behind them what makes a run small. A dry run is left as it is.
constexpr const char* kStandIn = R"(#!/usr/bin/env bash
set -euo pipefail
words=() previous= steps=40 saves=20
for word in "$@"; do
  case $previous in
    --train-sentencepiece) word=400 ;;
    --sequences) word=4 ;;
    --length) word=24 ;;
    --steps) word=3 ;;
    --port) word=0 ;;
  esac
  words+=("$word") previous=$word
done
given=" $* "
[[ $given != *" --dry-run "* ]] || exec "$SINKSCOPE" "${words[@]}"
if [[ $given == *" name=long "* ]]; then steps=100000 saves=1000; fi
model=(model.layers=2 model.channels=16 model.heads=2 model.hidden=24 train.micro_batch=4 train.gradient_accumulation=1
  train.sequence_length=32 train.schedule.warmup_steps=2 probes.short_length=16
  threads=2)
run=("train.steps=$steps" evaluation.every=20 evaluation.batches=2 probes.every=10 probes.sequences=4
  "checkpoint.every=$saves" sample.every=20 sample.tokens=4)
settings=() more=()
case $1 in
  train|ablate|train-dump) settings=("${model[@]}" "${run[@]}") ;;
  bench) settings=("${model[@]}" model.vocab_size=512); more=(--steps 2 --repeats 1) ;;
  probe)
    [[ $given == *" --sequences "* ]] || more+=(--sequences 4)
    [[ $given != *" --causal "* ]] || more+=(--resamples 100)
    [[ $given != *" --text "* ]] || more+=(--short-length 16) ;;
esac
for setting in "${settings[@]}"; do more+=(--set "$setting"); done
exec "$SINKSCOPE" "${words[@]}" "${more[@]}"
)";

/// Documents of words that differ enough for a tokenizer of 400 pieces.
std::string documents(unsigned seed) {
  static const std::vector<std::string> kSyllables = {"ka", "lo", "mi",  "ren", "su", "tha", "vel",
                                                      "or", "an", "wis", "pe",  "du", "gar", "ne"};
  std::mt19937 generator(seed);
  std::vector<std::string> words;
  for (int i = 0; i < 300; ++i) {
    std::string word;
    for (unsigned n = generator() % 3 + 1; n > 0; --n) word += kSyllables[generator() % kSyllables.size()];
    words.push_back(word);
  }
  std::string text;
  for (int i = 0; i < 16000; ++i) {
    text += words[std::min(generator() % words.size(), generator() % words.size())];
    text += i % 13 == 12 ? ".\n" : " ";
    if (i % 400 == 399) text += "\n<|endoftext|>\n";
  }
  return text;
}

/// GPT-2's byte-level vocabulary with one merge.
void write_gpt2_vocabulary(const fs::path& folder) {
  std::string encoder = "{";
  int id = 0;
  const auto add = [&](int code) {
    std::string character;
    if (code < 0x80)
      character = std::string(1, static_cast<char>(code));
    else
      character = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
    if (character == "\"" || character == "\\") character = "\\" + character;
    encoder += "\"" + character + "\":" + std::to_string(id++) + ",";
  };
  for (int code = 0x21; code <= 0x7e; ++code) add(code);
  for (int code = 0xa1; code <= 0xff; ++code)
    if (code != 0xad) add(code);
  for (int code = 0x100; code <= 0x143; ++code) add(code);
  encoder += "\"an\":" + std::to_string(id) + ",\"<|endoftext|>\":" + std::to_string(id + 1) + "}";
  test::write_file(folder / "encoder.json", encoder);
  test::write_file(folder / "vocab.bpe", "#version: 0.2\na n\n");
}

void write_program(const fs::path& file, const std::string& content) {
  test::write_file(file, content);
  fs::permissions(file, fs::perms::owner_exec, fs::perm_options::add);
}

/// A folder like the repository after its quick start: configs/, the program in build/cpu/tools/, texts.
class Repository {
 public:
  Repository() {
    fs::copy(SINKSCOPE_CONFIGS, path() / "configs", fs::copy_options::recursive);
    write_program(path() / "build/cpu/tools/sinkscope", kStandIn);
    write_program(path() / "bin/srun", "#!/bin/sh\nexec \"$@\"\n");
    for (const char* file : {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"})
      test::write_file(path() / "assets/uplot" / file, "/* */");
    write_gpt2_vocabulary(path() / ".cache/gpt2-bpe");
    test::write_file(path() / "text.txt", documents(1));
    test::write_file(path() / "more.txt", documents(2));
  }
  const fs::path& path() const { return folder_.path(); }

  /// Shell text with the environment that every command has.
  std::string script(const std::string& command) const {
    const std::string here = "'" + path().string() + "'";
    return "cd " + here + " || exit 125; export HOME=" + here + " SINKSCOPE_ASSETS=" + here +
           "/assets SINKSCOPE='" SINKSCOPE_PROGRAM "' PATH=" + here + "/build/cpu/tools:" + here +
           "/bin:$PATH OMP_WAIT_POLICY=passive TERM=xterm; unset NO_COLOR;\n" + command;
  }

 private:
  test::TemporaryFolder folder_;
};

/// A shell on a terminal of its own.
class Terminal {
 public:
  explicit Terminal(const std::string& script) {
    winsize size{.ws_row = 50, .ws_col = 200, .ws_xpixel = 0, .ws_ypixel = 0};
    process_ = forkpty(&terminal_, nullptr, nullptr, &size);
    if (process_ < 0) throw std::runtime_error("forkpty failed");
    if (process_ > 0) return;
    for (const int signal : {SIGINT, SIGHUP, SIGTERM}) ::signal(signal, SIG_DFL);
    execl("/bin/bash", "bash", "-c", script.c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() {
    if (!status_) {
      kill(process_, SIGKILL);
      waitpid(process_, nullptr, 0);
    }
    close(terminal_);
  }

  /// Reads until all parts were printed or it has ended; false when that takes more than a minute.
  bool wait_for(const std::vector<std::string>& parts) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < end) {
      if (std::all_of(parts.begin(), parts.end(), [&](const std::string& part) { return contains(output_, part); }))
        return true;
      if (!read()) return false;
    }
    return false;
  }
  void press_control_c() {
    if (write(terminal_, "\x03", 1) != 1) throw std::runtime_error("the terminal is gone");
  }
  /// Of its end; 128 + n by signal n.
  int status() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (read())
      if (std::chrono::steady_clock::now() > end) return -1;
    int status = 0;
    waitpid(process_, &status, 0);
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return *status_;
  }
  const std::string& output() const { return output_; }

 private:
  /// What there is, within a tenth of a second; false at the end.
  bool read() {
    pollfd waiting{.fd = terminal_, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 100) <= 0) return true;
    char buffer[4096];
    const ssize_t n = ::read(terminal_, buffer, sizeof buffer);
    if (n <= 0) return false;
    for (const char c : std::string(buffer, static_cast<std::size_t>(n)))
      if (c != '\r') output_ += c;
    return true;
  }

  int terminal_ = -1;
  pid_t process_ = -1;
  std::optional<int> status_;
  std::string output_;
};

/// Without a terminal.
Outcome outcome_of(const std::string& script) {
  FILE* pipe = popen(("{ " + script + "\n} 2>&1 </dev/null").c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  Outcome outcome;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    outcome.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

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

void run_command(const Repository& place, const Run& run) {
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
    if (!entry.file.empty()) CHECK(contains(test::read_file(repository() / entry.file), entry.holds));
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
  const Repository place;
  for (const Fence& fence : markdown.fences)
    if (fence.section == "First run on your own text" && fence.language == "json")
      test::write_file(place.path() / "configs/mine.json", fence.body);
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

// ---- charts and links ----

/// The text under a heading of level 2.
std::string section_of(const std::string& text, const std::string& heading) {
  const std::size_t begin = text.find("\n## " + heading + "\n");
  if (begin == std::string::npos) throw std::runtime_error("the README has no section " + heading);
  const std::size_t end = text.find("\n## ", begin + 1);
  return text.substr(begin, end == std::string::npos ? end : end - begin);
}

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
  for (const char c : section_of(test::read_file(SINKSCOPE_README), "Reading the charts")) {
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
    sources += test::read_file(repository() / "tools/report" / file);
  for (std::size_t begin = 0; (begin = text.find("**", begin)) != std::string::npos;) {
    const std::size_t end = text.find("**", begin + 2);
    const std::string title = text.substr(begin + 2, end - begin - 2);
    INFO(title);
    CHECK((contains(sources, "\"" + title + "\"") || contains(sources, "<h2>" + title + "</h2>")));
    begin = end + 2;
  }
}

TEST_CASE("the README's links lead somewhere") {
  const std::string text = test::read_file(SINKSCOPE_README);
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
      CHECK(fs::exists(repository() / target));
  }
  CHECK(links > 20);
}

// ---- troubleshooting ----

/// Numbers differ between machines: each becomes #.
std::string without_numbers(const std::string& line) {
  std::string result;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (std::isdigit(static_cast<unsigned char>(line[i])) == 0) {
      result += line[i];
      continue;
    }
    while (i + 1 < line.size() &&
           (std::isdigit(static_cast<unsigned char>(line[i + 1])) != 0 ||
            (line[i + 1] == '.' && i + 2 < line.size() && std::isdigit(static_cast<unsigned char>(line[i + 2])) != 0)))
      ++i;
    result += '#';
  }
  return result;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

/// A whole line; … in the quotation stands for any text.
bool quotes(const std::string& quotation, const std::string& line) {
  static const std::string kAny = "…";
  const std::string pattern = without_numbers(quotation), text = without_numbers(line);
  std::size_t at = 0, from = 0;
  for (bool first = true;; first = false) {
    const std::size_t end = pattern.find(kAny, from);
    const std::string piece = pattern.substr(from, end == std::string::npos ? end : end - from);
    if (end == std::string::npos) {
      if (first) return text == pattern;
      return text.size() >= at + piece.size() && text.ends_with(piece);
    }
    const std::size_t found = text.find(piece, at);
    if (found == std::string::npos || (first && found != 0)) return false;
    at = found + piece.size();
    from = end + kAny.size();
  }
}

TEST_CASE("a quotation is a whole line, but for its numbers and what … stands for") {
  CHECK(quotes("step 3: no", "step 12: no"));
  CHECK(quotes("a … of 3 b", "a lot of 4.5 b"));
  CHECK(quotes("… b", "a b"));
  CHECK_FALSE(quotes("step 3: no", "step 3: not"));
  CHECK_FALSE(quotes("step 3: no", "a step 3: no"));
  CHECK_FALSE(quotes("a … c", "a b"));
  CHECK_FALSE(quotes("ab … bc", "abc"));
}

const std::string kMine = R"({
  "name": "mine",
  "threads": 2,
  "model": {"preset": "llama", "layers": 3, "channels": 16, "heads": 2, "hidden": 24},
  "data": {"path": "data/mine", "bos": "sequence"},
  "train": {"steps": 60, "micro_batch": 4, "sequence_length": 32, "optimizer": {"learning_rate": 0.01},
            "schedule": {"warmup_steps": 5}},
  "evaluation": {"every": 20, "batches": 2},
  "probes": {"every": 10, "sequences": 4, "short_length": 16, "positions": 4},
  "checkpoint": {"every": 7}
})";

/// In a folder with the run runs/mine of that config, the output of `script`; `sinkscope` is the program itself.
std::string provoked(const Repository& place, const std::string& script) {
  return outcome_of(place.script("sinkscope() { command \"$SINKSCOPE\" \"$@\"; }\n" + script)).output;
}

/// What refuses a micro-batch, on a GPU of that much memory.
std::string does_not_fit() {
  const std::vector<std::string> overrides = {"train.micro_batch=512", "device=cuda"};
  Config config = load_config(std::string(SINKSCOPE_CONFIGS) + "/gpt2-124m.json", overrides);
  resolve_with_dataset(config, 50257, 50256, 50256);
  return "sinkscope: error: " + test::message_of([&] {
           expect_fit(config, {}, {.device = Device::cuda, .compute = DType::bf16}, std::size_t{79} << 30);
         }) +
         "\n";
}

std::string slow_steps() {
  AlertDetector alerts{Config{}};
  std::string text;
  for (std::int64_t step = 1; step <= 100; ++step) {
    StepRecord record;
    record.step = step;
    record.loss = 3;
    record.tokens_per_second = step <= 80 ? 10000 : 2400;
    record.step_seconds = 4096 / record.tokens_per_second;
    for (const Alert& alert : alerts.step(record)) text += alert.message + "\n";
  }
  return text;
}

TEST_CASE("the messages that the README's troubleshooting quotes are those of the program") {
  const Repository place;
  test::write_file(place.path() / "configs/mine.json", kMine);
  const std::string flip =
      "file=runs/mine/checkpoints/step_00000060/model.safetensors\n"
      "printf 'broken' | dd of=$file bs=1 seek=$(($(stat -c %s $file) - 8)) conv=notrunc 2> /dev/null\n";
  const std::string until_training =
      "program=$!; for i in $(seq 600); do [ -s runs/busy/metrics.jsonl ] && break; sleep 0.1; done; ";
#ifdef SINKSCOPE_SENTENCEPIECE
  const std::string pieces =
      "sinkscope tokenize text.txt --output data/none --train-sentencepiece 30000; "
      "sinkscope tokenize text.txt --output data/none --train-sentencepiece 200";
#else
  const std::string pieces;
#endif
  REQUIRE(
      contains(provoked(place,
                        "sinkscope tokenize text.txt --output data/mine --tokenizer byte --validation-fraction 0.2 && "
                        "sinkscope train configs/mine.json && sinkscope export runs/mine --output export/mine"),
               "exported step 60"));
  std::vector<std::string> outputs;
  const auto sh = [&](const std::string& script) { outputs.push_back(provoked(place, script)); };
  const std::string train = "sinkscope train configs/mine.json";

  sh("CUDA_VISIBLE_DEVICES= " + train + " --set name=gpu --set device=cuda");
  sh("PATH=/none; sinkscope doctor");
  outputs.push_back(does_not_fit());
  sh(train + " --set name=nan --set train.optimizer.learning_rate=1e38 --set train.schedule.warmup_steps=0");
  sh(train +
     " --set name=spike --set alerts.window=4 --set alerts.loss_spike=0.5 --set train.optimizer.learning_rate=0.1");
  sh(train);
  sh("sinkscope tokenize text.txt --output data/mine --tokenizer byte; sinkscope export runs/mine --output "
     "export/mine");
  sh(train + " --set train.steps=100 --resume");
  sh(train + " --set name=other --resume");
  sh(train + " --resume");
  sh(train + " --set name=none --set data.path=data/yours");
  sh("sinkscope tokenize text.txt --output data/whole --tokenizer byte; " + train + " --set model.vocab_size=100; " +
     train + " --set train.sequence_length=20000; " + train + " --set data.path=data/whole");
  sh(pieces);
  sh(train + " --set model.layer=3");
  sh(flip + train + " --resume");
  sh("rm runs/mine/checkpoints/*/model.safetensors; " + train + " --resume");
  sh("trap '' XFSZ; ulimit -f 24; " + train + " --set name=full --set checkpoint.every=0");
  sh("SINKSCOPE_ASSETS=none; sinkscope compare runs/mine");
  outputs.push_back(slow_steps());
  sh("sinkscope train configs/mine.json --set name=busy --set train.steps=100000 > /dev/null 2>&1 & " + until_training +
     train + " --set name=busy --set train.steps=100000 --resume; kill -KILL $program");
#ifdef SINKSCOPE_HTTPLIB
  const std::string serve =
      "\"$SINKSCOPE\" monitor --serve runs/mine > serve.log 2>&1 & program=$!\n"
      "for i in $(seq 600); do grep -q 'live page' serve.log && break; sleep 0.1; done\n"
      "port=$(sed -n 's|^live page: http://127.0.0.1:\\([0-9]*\\)/.*|\\1|p' serve.log)\n";
  sh(serve +
     "bash -c 'exec 3<> /dev/tcp/127.0.0.1/'$port'; printf \"GET / HTTP/1.1\\r\\nHost: gpu-box\\r\\nConnection: "
     "close\\r\\n\\r\\n\" >&3; "
     "cat <&3'\nkill -INT $program; wait $program");
  sh(serve + "sinkscope monitor --serve --port $port runs/mine; kill -INT $program; wait $program");
#else
  outputs.resize(outputs.size() + 2);
#endif
  sh("sinkscope compare runs/mine --no-html");

  std::size_t next = 0;
  for (const Fence& fence : readme().fences) {
    if (fence.section != "Troubleshooting") continue;
    INFO("the README quotes:\n" << fence.body);
    CHECK(fence.language.empty());
    REQUIRE(next < outputs.size());
    const std::string& output = outputs[next++];
    if (output.empty()) continue;  // this build cannot
    INFO("the program prints:\n" << output);
    for (const std::string& quotation : lines_of(fence.body)) {
      INFO(quotation);
      const std::vector<std::string> lines = lines_of(output);
      CHECK(std::any_of(lines.begin(), lines.end(), [&](const std::string& line) { return quotes(quotation, line); }));
    }
  }
  CHECK(next == outputs.size());
}

}  // namespace
}  // namespace sinkscope
