// Every message that the README's troubleshooting section quotes is provoked here and compared.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/train/alerts.h"
#include "engine/train/run_memory.h"
#include "tests/catch.h"
#include "tests/end_to_end/markdown.h"
#include "tests/end_to_end/quick_started.h"
#include "tests/end_to_end/terminal.h"

namespace sinkscope {
namespace {

using namespace test;

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
std::string provoked(const QuickStarted& place, const std::string& script) {
  return outcome_of(place.script("sinkscope() { command \"$SINKSCOPE\" \"$@\"; }\n" + script)).output;
}

/// What refuses a micro-batch, on a GPU of that much memory.
std::string does_not_fit() {
  const std::vector<std::string> overrides = {"train.micro_batch=512", "device=cuda"};
  Config config = load_config(std::string(SINKSCOPE_CONFIGS) + "/gpt2-124m.json", overrides);
  resolve_with_dataset(config, 50257, 50256, 50256);
  return "sinkscope: error: " + message_of([&] {
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
  const QuickStarted place;
  write_file(place.path() / "configs/mine.json", kMine);
  const std::string flip =
      "file=runs/mine/checkpoints/step_00000060/model.safetensors\n"
      "printf 'broken' | dd of=$file bs=1 seek=$(($(stat -c %s $file) - 8)) conv=notrunc 2> /dev/null\n";
  const std::string until_training =
      "program=$!; for i in $(seq 600); do [ -s runs/busy/metrics.jsonl ] && break; sleep 0.1; done; ";
#ifdef SINKSCOPE_SENTENCEPIECE
  const std::optional<std::string> pieces =
      "sinkscope tokenize text.txt --output data/none --train-sentencepiece 30000; "
      "sinkscope tokenize text.txt --output data/none --train-sentencepiece 200";
#else
  const std::optional<std::string> pieces;
#endif
  REQUIRE(
      contains(provoked(place,
                        "sinkscope tokenize text.txt --output data/mine --tokenizer byte --validation-fraction 0.2 && "
                        "sinkscope train configs/mine.json && sinkscope export runs/mine --output export/mine"),
               "exported step 60"));
  std::vector<std::optional<std::string>> outputs;  // none where this build cannot
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
  if (pieces) {
    sh(*pieces);
  } else {
    outputs.emplace_back();
  }
  sh(train + " --set model.layer=3");
  sh(flip + train + " --resume");
  sh("rm runs/mine/checkpoints/*/model.safetensors; " + train + " --resume");
  sh("trap '' XFSZ; ulimit -f 24; " + train + " --set name=full --set checkpoint.every=0");
  sh("SINKSCOPE_ASSETS=none; sinkscope compare runs/mine");
  outputs.push_back(slow_steps());
  sh("sinkscope train configs/mine.json --set name=busy --set train.steps=100000 > /dev/null 2>&1 & " + until_training +
     train + " --set name=busy --set train.steps=100000 --resume; kill -KILL $program");
#ifdef SINKSCOPE_HTTPLIB
  const std::string serve =  // the log of a server before would be taken for this one's
      "rm -f serve.log; \"$SINKSCOPE\" monitor --serve runs/mine > serve.log 2>&1 & program=$!\n"
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
    const std::optional<std::string>& output = outputs[next++];
    if (!output) continue;
    INFO("the program prints:\n" << *output);
    for (const std::string& quotation : lines_of(fence.body)) {
      INFO(quotation);
      const std::vector<std::string> lines = lines_of(*output);
      CHECK(std::any_of(lines.begin(), lines.end(), [&](const std::string& line) { return quotes(quotation, line); }));
    }
  }
  CHECK(next == outputs.size());
}

}  // namespace
}  // namespace sinkscope
