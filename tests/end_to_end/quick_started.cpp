#include "tests/end_to_end/quick_started.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace sinkscope::test {
namespace {

namespace fs = std::filesystem;

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

/// Nsight Systems where this machine has it; else what runs the program that is to be profiled, and writes the options
/// for a report.
constexpr const char* kNsys = R"(#!/usr/bin/env bash
set -euo pipefail
installed=$(type -aP nsys | sed -n 2p)
[[ -z $installed ]] || exec "$installed" "$@"
given=$* report=report1
[[ $1 == profile ]] || { echo "nsys: unknown command $1"; exit 1; }
shift
while [[ $1 == -* ]]; do
  case $1 in
    --trace) [[ $2 =~ ^(cuda|nvtx|osrt|cublas)(,(cuda|nvtx|osrt|cublas))*$ ]] || { echo "nsys: --trace $2"; exit 1; } ;;
    --output) report=$2 ;;
    *) echo "nsys: unknown option $1"; exit 1 ;;
  esac
  shift 2
done
"$@"
echo "$given" > "$report.nsys-rep"
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
  write_file(folder / "encoder.json", encoder);
  write_file(folder / "vocab.bpe", "#version: 0.2\na n\n");
}

void write_program(const fs::path& file, const std::string& content) {
  write_file(file, content);
  fs::permissions(file, fs::perms::owner_exec, fs::perm_options::add);
}

}  // namespace

QuickStarted::QuickStarted() {
  fs::copy(SINKSCOPE_CONFIGS, path() / "configs", fs::copy_options::recursive);
  write_program(path() / "build/cpu/tools/sinkscope", kStandIn);
  write_program(path() / "bin/srun", "#!/bin/sh\nexec \"$@\"\n");
  write_program(path() / "bin/nsys", kNsys);
  for (const char* file : {"uPlot.iife.min.js", "uPlot.min.css", "LICENSE"})
    write_file(path() / "assets/uplot" / file, "/* */");
  write_gpt2_vocabulary(path() / ".cache/gpt2-bpe");
  write_file(path() / "text.txt", documents(1));
  write_file(path() / "more.txt", documents(2));
}

std::string QuickStarted::script(const std::string& command) const {
  const std::string here = "'" + path().string() + "'";
  return "cd " + here + " || exit 125; export HOME=" + here + " SINKSCOPE_ASSETS=" + here +
         "/assets SINKSCOPE='" SINKSCOPE_PROGRAM "' PATH=" + here + "/build/cpu/tools:" + here +
         "/bin:$PATH OMP_WAIT_POLICY=passive TERM=xterm; unset NO_COLOR;\n" + command;
}

}  // namespace sinkscope::test
