#include "engine/train/run_memory.h"

#include <algorithm>
#include <map>

#include "engine/config/load.h"
#include "engine/optim/adamw.h"
#include "engine/train/gradient_sums.h"
#include "tests/catch.h"
#include "tests/train/support.h"

namespace sinkscope {
namespace {

constexpr Backend kCpu{}, kGpu{.device = Device::cuda, .compute = DType::bf16};

/// The sets that a run of the config has where its dataset has text enough: extents alone.
std::vector<ProbeSet> set_extents(const Config& config) {
  std::vector<ProbeSet> sets;
  for (const std::int64_t length : {config.train.sequence_length, config.probes.short_length})
    for (const bool with_bos : {false, true})
      sets.push_back({.name = "set", .length = length, .sequences = config.probes.sequences, .with_bos = with_bos,
                      .inputs = {}, .targets = {}});
  return sets;
}

Config shipped(const std::string& name, const std::vector<std::string>& overrides, std::int64_t vocabulary) {
  Config config = load_config(std::string(SINKSCOPE_CONFIGS) + "/" + name + ".json", overrides);
  resolve_with_dataset(config, vocabulary, vocabulary - 1, vocabulary - 1);
  return config;
}

/// The small run with its vocabulary, on no dataset.
Config small(const std::vector<std::string>& overrides) {
  Config config = test::small_config(".", overrides);
  resolve_with_dataset(config, 258, 256, 257);
  return config;
}

std::map<std::string, std::size_t> by_arena(const std::vector<MemoryLine>& lines) {
  std::map<std::string, std::size_t> bytes;
  for (const MemoryLine& line : lines) bytes[line.arena] += line.bytes;
  return bytes;
}

std::size_t total(Config config, std::int64_t micro_batch, const Backend& backend) {
  config.train.micro_batch = micro_batch;
  return total_bytes(run_memory(config, set_extents(config), backend));
}

std::string fit_error(const Config& config, std::size_t available) {
  try {
    expect_fit(config, set_extents(config), kGpu, available);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

TEST_CASE("GPT-2 124M at 64 x 1024 takes less than the 28.5 GB of PyTorch, with nothing recomputed") {
  const Config config = shipped("gpt2-124m", {"train.micro_batch=64", "device=cuda"}, 50257);
  REQUIRE(config.model.vocab_size == 50304);
  REQUIRE(config.train.recompute == Recompute::none);
  REQUIRE(config.probes.enabled);
  const std::vector<MemoryLine> lines = run_memory(config, set_extents(config), backend_of(config));
  const std::size_t total = total_bytes(lines);
  CHECK(static_cast<double>(total) < 28.5e9);
  CHECK(static_cast<double>(total) == Approx(24.61e9).epsilon(1e-3));

  auto bytes = by_arena(lines);
  const std::size_t N = 64 * 1024, C = 768, L = 12;
  const auto P = static_cast<std::size_t>(ParameterLayout(config.model).flat_size());
  CHECK(bytes["parameters"] == 2 * P);
  CHECK(bytes["gradients"] == 4 * P);
  const std::size_t step_sums = (8 * (2 * L * 12 * 8 + (L + 1) * (8 + 2)) + 255) / 256 * 256;  // of 8 positions
  // Five rows of C, qkv of 3C, up and activation of 4C each in bf16; lse of 12 heads and two norms' statistics in f32.
  CHECK(bytes["activations"] == N * (L * (16 * C * 2 + 12 * 4 + 4 * 4) + 2 * C * 2 + 2 * 4 + L * 12 * 4 + (L + 1) * 4) +
                                    step_sums + (8 * L * (12 + 1024) + 255) / 256 * 256);  // attention sums
  const std::size_t head_rows = 8192;  // a power of two; a GiB of logits has room for 10672
  // The last terms are statistics and key mass.
  CHECK(bytes["scratch"] == N * 3 * 4 + (head_rows * 50304 * 2 + 255) / 256 * 256 + 50304 * 4 +
                                N * (2 * C + 3 * C + 4 * C + C + 3 * C) * 2 + (6 * 64 + N) * 12 * 4);
  CHECK(bytes["optimizer"] / P == 12);
  CHECK(bytes["backend"] < std::size_t{600} << 20);

  const auto with = [&](const char* recompute) {
    Config other = config;
    other.train.recompute = std::string(recompute) == "mlp" ? Recompute::mlp : Recompute::block;
    return total_bytes(run_memory(other, set_extents(other), kGpu));
  };
  CHECK(total - with("mlp") == (L - 1) * N * (9 * C * 2 + 2 * 4));
  CHECK(total - with("block") == (L - 1) * N * (15 * C * 2 + 12 * 4 + 4 * 4));
}

TEST_CASE("what is sharded over ranks is planned once a rank") {
  const Config whole = small({"ranks.shard=none"});
  const auto plan = [](const Config& config, int ranks) {
    return by_arena(
        run_memory(config, set_extents(config), {.device = Device::cuda, .compute = DType::bf16, .ranks = ranks}));
  };
  const ParameterLayout layout(whole.model);
  const auto P = static_cast<std::size_t>(layout.flat_size());
  const auto all = plan(whole, 4), optimizer = plan(small({"ranks.shard=optimizer"}), 4),
             gradients = plan(small({"ranks.shard=gradients"}), 4);
  CHECK(all.at("gradients") == 4 * P);
  const auto part = static_cast<std::size_t>(share_of(small({}).ranks, layout, 0, 4).size());
  CHECK(part >= P / 4);
  CHECK(part <= P / 4 + 64 * layout.sections().size());
  // Its sums beside those of its own passes.
  CHECK(optimizer.at("gradients") == Approx(static_cast<double>(4 * (P + part))).epsilon(1e-2));
  CHECK(optimizer.at("parameters") == Approx(static_cast<double>(2 * (P + part))).epsilon(2e-2));
  const std::size_t moments = all.at("optimizer") - optimizer.at("optimizer");
  CHECK(moments == Approx(12.0 * static_cast<double>(P - part)).epsilon(1e-2));
  CHECK(gradients.at("optimizer") == optimizer.at("optimizer"));
  for (const int rank : {0, 3}) {  // what the optimizer asks of the backend is of the rank's share
    const BackendExtents extents =
        backend_extents(small({}), {}, {.device = Device::cuda, .compute = DType::bf16, .ranks = 4}, rank);
    const OptimizerShare share = share_of(small({}).ranks, layout, rank, 4);
    CHECK(extents.flat_size == share.size());
    REQUIRE(extents.segments.size() == layout.specs().size());
    CHECK(extents.segments.back().begin == share.before(layout.specs().back().offset));
  }
  const std::vector<Section>& sections = layout.sections();
  std::size_t kept =
      static_cast<std::size_t>(sections.front().size + 2 * sections[1].size + sections.back().size) + part;
  CHECK(gradients.at("gradients") == Approx(4.0 * static_cast<double>(kept)).epsilon(1e-2));
  CHECK(plan(small({"ranks.shard=gradients"}), 1) == plan(whole, 1));
  const Config config = small({"ranks.shard=gradients"});
  const std::string table = memory_table(
      run_memory(config, set_extents(config), {.device = Device::cuda, .compute = DType::bf16, .ranks = 4}));
  const std::size_t sum = table.find("\ngradients      = all of it ");
  REQUIRE(sum != std::string::npos);
  CHECK(table.find("\ngradients ", sum + 1) == std::string::npos);  // of all its rows
  CHECK(table.find("\ngradients      own share ") < sum);
  const auto wire = plan(small({"ranks.shard=none", "ranks.reduce_dtype=bf16", "ranks.bucket_megabytes=0.04"}), 4);
  CHECK(wire.at("backend") == all.at("backend") + 2 * 2 * 10000);
  const auto kernels = plan(small({"ranks.shard=gradients", "ranks.copy_engines=false"}), 4);
  const auto dealt = plan(small({"ranks.shard=gradients", "ranks.copy_engines=false", "ranks.reduce_dtype=bf16",
                                 "ranks.bucket_megabytes=0.004"}),
                          4);
  // 1000 elements, as whole lines of each of four ranks.
  CHECK(dealt.at("backend") - kernels.at("backend") == 2 * 2 * 1024);
  // Copy engines carry the largest section: its gradients, there and here, and its parameters; of each rank's parts
  // whole lines.
  const auto largest = static_cast<std::size_t>(std::ranges::max(sections, {}, &Section::size).size);
  const auto expect = [&](const char* overrides, const Backend& backend, std::size_t bytes) {
    INFO(overrides);
    const Config carried = small({"ranks.shard=parameters", overrides}),
                 by_kernels = small({"ranks.shard=parameters", "ranks.copy_engines=false"});
    const auto found = by_arena(run_memory(carried, set_extents(carried), backend)),
               without = by_arena(run_memory(by_kernels, set_extents(config), backend));
    const std::size_t more = found.at("backend") - without.at("backend"), lines = bytes * 64 * 4 * 4;
    CHECK(more >= bytes * largest);
    CHECK(more <= bytes * largest + lines);
  };
  const Backend half{.device = Device::cuda, .compute = DType::bf16, .ranks = 4},
      whole_numbers{.device = Device::cuda, .compute = DType::f32, .ranks = 4};
  expect("ranks.reduce_dtype=fp32", half, 2 * 4 + 2);
  expect("ranks.reduce_dtype=bf16", half, 2 * 2 + 2);
  expect("ranks.reduce_dtype=fp32", whole_numbers, 2 * 4 + 4);
  const ParameterLayout tied(small({"model.tied_embedding=true"}).model);  // whose first section is the largest
  CHECK(tied.sections().front().size > 2 * tied.sections().back().size);
  CHECK(carried_bytes(tied, small({}).ranks, 4, DType::bf16).shared >=
        2 * static_cast<std::size_t>(tied.sections().front().size));
  const Backend hosts{.device = Device::cuda, .compute = DType::bf16, .ranks = 4, .one_host = false};
  const Config across = small({"ranks.shard=gradients"});
  CHECK(by_arena(run_memory(across, set_extents(across), hosts)).at("backend") == kernels.at("backend"));
}

TEST_CASE("a run is planned for a device without one: the CPU's in fp32, a GPU's in bf16 and with the backend") {
  const Config config = small({});
  const std::vector<ProbeSet> sets = set_extents(config);
  const auto cpu = by_arena(run_memory(config, sets, kCpu)), gpu = by_arena(run_memory(config, sets, kGpu));
  CHECK(cpu.count("backend") == 0);
  REQUIRE(gpu.count("backend") == 1);
  CHECK(gpu.at("backend") > kCudaWorkspace);
  CHECK(gpu.at("parameters") < cpu.at("parameters") / 2 + 256);
  CHECK(gpu.at("gradients") == cpu.at("gradients"));

  CHECK(decoder_options(config, kCpu).logits_bytes == 8 << 20);
  CHECK(decoder_options(config, kGpu).logits_bytes == 1 << 30);
  CHECK(decoder_options(small({"train.recompute=block"}), kGpu).recompute == Recompute::block);
  CHECK(backend_of(small({"device=cuda"})).compute == DType::bf16);
  CHECK(backend_of(small({"device=cuda", "precision=fp32"})).compute == DType::f32);
  CHECK(backend_of(small({"device=cpu"})).device == Device::cpu);

  test::TemporaryFolder folder;
  test::make_dataset(folder.path());
  const RunPlan plan = plan_run(test::small_config(folder.path(), {"device=cuda"}));
  CHECK(plan.backend.device == Device::cuda);
  CHECK(by_arena(plan.memory).count("backend") == 1);
  CHECK(plan.memory_available.has_value() == plan.no_gpu.empty());
  CHECK(plan.no_gpu.empty() == !cuda_devices().empty());
  const RunPlan on_cpu = plan_run(test::small_config(folder.path(), {"device=cpu"}));
  CHECK(on_cpu.backend.compute == DType::f32);
  CHECK(on_cpu.memory_available.value() > std::size_t{16} << 20);
  CHECK(test::message_of([&] {
          expect_fit(config, sets, kCpu, 1000);
        }).find(" MiB of this machine's memory, and 0 MiB are free; not even 1 fits") != std::string::npos);
  CHECK(on_cpu.no_gpu.empty());
  CHECK(by_arena(on_cpu.memory).count("backend") == 0);
}

TEST_CASE("what the backend asks for follows from what the run does") {
  const auto memory = [](std::vector<std::string> overrides, bool probed = true, const Backend& backend = kGpu) {
    if (!probed) overrides.emplace_back("probes.every=0");
    const Config config = small(overrides);
    return cuda_memory(backend_extents(config, probed ? set_extents(config) : std::vector<ProbeSet>{}, backend));
  };
  const BackendMemory llama = memory({});
  CHECK(llama.workspace == kCudaWorkspace);
  CHECK(llama.rotary == 24 * 4 * 8);  // T 24, D 8
  CHECK(memory({"model.rotary_dim=2"}).rotary == 256);  // 24 * 1 * 8, rounded up
  CHECK(memory({"model.preset=gpt2"}).rotary == 0);
  CHECK(memory({"model.layers=40"}).chunks > llama.chunks);
  // Each of these is the largest request where it is large enough: the sort of the embedding's rows, attention
  // statistics of long sequences, norms of a probe set's keys and values, sink scores, bias gradients, sums of dQ.
  const auto scratch = [&](const std::vector<std::string>& overrides, bool probed = true) {
    return memory(overrides, probed).scratch;
  };
  const std::size_t rows = 4096 * 24;
  CHECK(scratch({"train.micro_batch=4096"}, false) >= rows * (12 + 8));
  const std::vector<std::string> lengthy = {"train.sequence_length=8192", "train.micro_batch=1", "probes.sequences=1"};
  CHECK(scratch(lengthy) >= std::size_t{2 * 256} * (40 + 4 * 8192));
  CHECK(scratch(lengthy) > scratch(lengthy, false));
  const Config own = small(lengthy);  // the training batch's alone, where no set is known
  CHECK(cuda_memory(backend_extents(own, {}, kGpu)).scratch == scratch(lengthy));
  const std::vector<std::string> deep = {"model.layers=40", "model.heads=4", "model.kv_heads=4", "model.head_dim=8",
                                         "train.micro_batch=1024", "probes.sequences=1024"};
  CHECK(scratch(deep) >= std::size_t{2 * 4 * 40 * 1024} * 16);
  CHECK(scratch(deep) > scratch(deep, false));
  CHECK(scratch({"train.micro_batch=2048", "model.heads=64", "model.head_dim=8", "probes.positions=12"}, false) >=
        std::size_t{2048 * 64 * 12 * 4});
  const std::vector<std::string> headed = {"train.micro_batch=2048", "model.heads=8", "model.head_dim=64"};
  CHECK(scratch(headed, false) >= std::size_t{2048 * 8 * 24} * 66 * 4);
  // Operands of FP8 products, those of the widest linear map going back.
  const std::vector<std::string> fp8 = {"train.micro_batch=2048", "precision=fp8", "model.hidden=256"};
  constexpr Backend kGpuFp8{.device = Device::cuda, .compute = DType::bf16, .fp8 = true};
  const std::int64_t N = 2048 * 24;
  CHECK(memory(fp8, false, kGpuFp8).scratch >= static_cast<std::size_t>(fp8_backward_bytes(N, 16, 2 * 256)));
  CHECK(fp8_backward_bytes(N, 16, 2 * 256) == (2 * N + 16) * 512 + N * 16);
  CHECK(fp8_backward_bytes(17, 16, 32) == (17 + 32 + 16) * 32 + 32 * 16);
  CHECK(fp8_forward_bytes(17, 16, 32) == (17 + 32) * 16);
  CHECK(memory(fp8, false).scratch < static_cast<std::size_t>(fp8_backward_bytes(N, 16, 2 * 256)));
  constexpr Backend kGpuFp32{.device = Device::cuda, .compute = DType::f32};  // whose kernels have no such sums
  CHECK(memory(headed, false, kGpuFp32).scratch < std::size_t{2048 * 8 * 24} * 66 * 4);
  CHECK(scratch({"model.preset=gpt2", "model.hidden=1000000", "train.micro_batch=512"}, false) >=
        std::size_t{512 * 24 / 64 * 4} * 1000000);
  std::vector<std::string> wide = {"model.heads=1024", "model.kv_heads=1024", "model.head_dim=1024",
                                   "train.micro_batch=12", "train.sequence_length=128"};
  const std::size_t without = scratch(wide, false);
  wide.emplace_back("model.qkv_bias=true");
  CHECK(scratch(wide, false) >= std::size_t{12 * 128 / 64 * 4} * 3 * 1024 * 1024);
  CHECK(scratch(wide, false) > without);
  // Attention backward on Hopper beside its own sums: partial ones of the bias of qkv, unless QK-norm comes between.
  const auto attended = [&](const char* setting, const char* bias) {
    return scratch({"model.heads=512", "model.kv_heads=512", "model.head_dim=64", "train.micro_batch=8",
                    "train.sequence_length=128", setting, std::string("model.qkv_bias=") + bias},
                   false);
  };
  for (const char* position : {"model.position=learned", "model.position=rope"})
    CHECK(attended(position, "true") - attended(position, "false") >= std::size_t{8 * 128 / 16 * 4} * 3 * 512 * 64);
  CHECK(attended("model.qk_norm=true", "true") == attended("model.qk_norm=true", "false"));
}

TEST_CASE("the largest micro-batch that fits is the largest, also where probe sets go through in parts") {
  for (const std::vector<std::string>& overrides :
       {std::vector<std::string>{"train.micro_batch=40"},
        {"train.micro_batch=40", "probes.sequences=30"},
        {"train.micro_batch=50", "probes.sequences=33", "train.recompute=block", "model.layers=6",
         "probes.short_length=5"},
        {"train.micro_batch=9", "probes.sequences=64"},
        {"train.micro_batch=1"}}) {
    const Config config = small(overrides);
    const std::int64_t most = config.train.micro_batch;
    std::vector<std::size_t> bytes = {0};
    for (std::int64_t b = 1; b <= most; ++b) bytes.push_back(total(config, b, kGpu));
    for (std::int64_t b = 1; b <= most; ++b)
      for (const std::size_t available : {bytes[static_cast<std::size_t>(b)], bytes[static_cast<std::size_t>(b)] - 1}) {
        std::int64_t expected = 0;
        for (std::int64_t other = 1; other <= most; ++other)
          if (bytes[static_cast<std::size_t>(other)] <= available) expected = other;
        INFO(overrides.back() << ", " << b << ", " << available);
        CHECK(largest_micro_batch(config, set_extents(config), kGpu, available) == expected);
      }
    CHECK(largest_micro_batch(config, set_extents(config), kGpu, bytes.back() * 2) == most);
    CHECK(largest_micro_batch(config, set_extents(config), kGpu, 0) == 0);
  }
}

TEST_CASE("of several ranks, a batch that does not fit is told as the config has it") {
  const Config config = small({"train.micro_batch=40", "train.gradient_accumulation=2"});
  const auto message = [&](std::size_t available, const Backend& backend) {
    return test::message_of([&] { expect_fit(config, set_extents(config), backend, available); });
  };
  Backend four = kGpu;
  four.ranks = 4;
  const std::size_t available = total(config, 13, four);
  CHECK(message(total(config, 20, four), four).empty());
  const std::string refusal = message(available, four);
  CHECK(test::contains(refusal, "a train.micro_batch of 40, in passes of 20 sequences on each of 4 ranks, takes "));
  CHECK(test::contains(refusal, " are free; the largest that fits with any train.gradient_accumulation is 13\n"));
  CHECK(test::contains(message(total(config, 13, kGpu), kGpu), " of 40 takes "));
}

TEST_CASE("a batch that does not fit is refused with the table and the largest that does") {
  const Config config = shipped("gpt2-124m", {"train.micro_batch=64", "device=cuda"}, 50257);
  const std::size_t needed = total(config, 64, kGpu);
  CHECK(fit_error(config, needed).empty());
  const std::string table = memory_table(run_memory(config, set_extents(config), kGpu));
  const auto mebibytes = [](std::size_t bytes) { return std::to_string((bytes + (std::size_t{1} << 19)) >> 20); };
  const auto expected = [&](std::size_t available, const std::string& largest) {
    return "gpt2-124m: a train.micro_batch of 64 takes " + mebibytes(needed) + " MiB of device memory, and " +
           mebibytes(available) + " MiB are free; " + largest + "\n" + table.substr(0, table.size() - 1);
  };
  CHECK(fit_error(config, needed - 1) == expected(needed - 1, "the largest that fits is 63"));
  CHECK(fit_error(config, total(config, 17, kGpu)) == expected(total(config, 17, kGpu), "the largest that fits is 17"));
  CHECK(fit_error(config, total(config, 1, kGpu) - 1) == expected(total(config, 1, kGpu) - 1, "not even 1 fits"));
  CHECK(fit_error(config, 0) == expected(0, "not even 1 fits"));

  CHECK(test::contains(table, "memory         buffer                                      MiB\n"));
  CHECK(test::contains(table, "\nactivations    blocks: mlp up                         4608.000\n"));
  CHECK(test::contains(table, "\nbackend        matrix product workspace                 64.000\n"));
  CHECK(test::contains(table, "\nbackend        = all of it "));
  CHECK(test::contains(table, "\ntotal  "));
  CHECK(std::count(table.begin(), table.end(), '\n') < 70);
}

}  // namespace
}  // namespace sinkscope
