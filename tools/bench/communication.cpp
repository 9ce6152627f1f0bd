#include "tools/bench/communication.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "engine/model/decoder.h"
#include "engine/model/random.h"
#include "engine/optim/adamw.h"
#include "engine/train/batch_share.h"
#include "engine/train/gradient_sums.h"
#include "engine/train/rank_weights.h"
#include "engine/train/trainer.h"
#include "tools/bench/arrays.h"
#include "tools/bench/step.h"

namespace sinkscope {
namespace {

using Clock = std::chrono::steady_clock;

/// Seconds until the device is done with `work`, all ranks beginning at once: of the slowest.
double slowest(Communicator& ranks, Ops& ops, const std::function<void()>& work) {
  ops.synchronize();
  ranks.barrier();
  const auto begin = Clock::now();
  work();
  ops.synchronize();
  const double mine = std::chrono::duration<double>(Clock::now() - begin).count();
  const std::vector<std::byte> all = ranks.gather(std::as_bytes(std::span(&mine, 1)));
  double most = 0;
  for (std::size_t at = 0; at < all.size(); at += sizeof mine) {
    double other = 0;
    std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(at), sizeof other, reinterpret_cast<std::byte*>(&other));
    most = std::max(most, other);
  }
  return most;
}

}  // namespace

double OverlapTime::hidden() const {
  return std::clamp((backward + sums - together) / std::min(backward, sums), 0.0, 1.0);
}

std::vector<SumTime> time_sums(Communicator& ranks, Ops& ops, const Config& config, int repeats) {
  constexpr std::size_t kSmallest = std::size_t{64} << 10, kLargest = std::size_t{256} << 20;
  const std::size_t gradients = static_cast<std::size_t>(ParameterLayout(config.model).flat_size()) * sizeof(float);
  std::vector<std::size_t> sizes;
  for (std::size_t bytes = kSmallest; bytes <= kLargest; bytes *= 8) sizes.push_back(bytes);
  if (gradients > kLargest) sizes.push_back(gradients);
  const Buffer buffer = ops.allocate(sizes.back());
  std::vector<SumTime> times;
  for (const std::size_t bytes : sizes) {
    const Tensor x(buffer.get(), DType::f32, {static_cast<std::int64_t>(bytes / sizeof(float))});
    ops.zero(x);
    const auto sum = [&] { ranks.all_reduce(x); };
    slowest(ranks, ops, sum);
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) seconds.push_back(slowest(ranks, ops, sum));
    const double N = ranks.size(), time = median(seconds);
    times.push_back({.bytes = bytes, .seconds = time, .bus_rate = 2 * (N - 1) / N * static_cast<double>(bytes) / time});
  }
  return times;
}

OverlapTime time_overlap(Communicator& ranks, Ops& ops, const Config& config, int repeats) {
  const Config own = config_of_rank(config, ranks.size());
  DecoderOptions options = decoder_options(config, ranks.size());
  options.recorded = false;  // as passes with sums in them are not
  Decoder decoder(ops, own.model, options);
  std::vector<float> values(static_cast<std::size_t>(decoder.layout().flat_size()));
  initialize_parameters(decoder.layout(), 1, values);
  AdamW optimizer(ops, decoder.layout(), own.train.optimizer,
                  share_of(own.ranks, decoder.layout(), ranks.rank(), ranks.size()));
  GradientSums gradients(ops, decoder, ranks, own.ranks);
  RankParameters parameters(ops, decoder, ranks, own.ranks);
  RankWeights(ops, decoder, optimizer, parameters, ranks)
      .spread({.parameters = values, .first_moment = {}, .second_moment = {}}, false);
  const std::int64_t B = own.train.micro_batch, T = own.train.sequence_length;
  const std::vector<std::int32_t> tokens = random_tokens(random_key(2, "bench"), B * T + 1, own.model.vocab_size);
  std::vector<float> losses(static_cast<std::size_t>(B * T));
  BackwardHooks hooks;
  Fp8History magnitudes;
  const auto scale = [&] {  // of FP8 products, as the loop of a run does after every step
    if (!decoder.options().fp8) return;
    std::vector<double> amax = decoder.step_sums().amax;
    ranks.sum_and_max({}, amax);
    magnitudes.add(amax);
    decoder.set_fp8_scales(magnitudes.scales());
  };
  const auto forward = [&] {
    gradients.begin_step();
    decoder.zero_step_sums();
    hooks = gradients.begin_pass(true);
    decoder.forward(B, T, tokens.data());
    decoder.loss(tokens.data() + 1, losses.data(), 1.0F / static_cast<float>(B * T));
  };
  std::vector<double> backward, sums, together;
  for (int i = -2; i < repeats; ++i) {  // the first two to warm up
    forward();
    const double alone = slowest(ranks, ops, [&] { decoder.backward({.open = hooks.open}); });
    const double summed = slowest(ranks, ops, [&] {
      for (std::int64_t section = std::ssize(decoder.layout().sections()) - 1; section >= 0; --section)
        hooks.close(section);
      gradients.finish();
    });
    forward();
    const double both = slowest(ranks, ops, [&] {
      decoder.backward(hooks);
      gradients.finish();
    });
    scale();
    if (i < 0) continue;
    backward.push_back(alone);
    sums.push_back(summed);
    together.push_back(both);
  }
  return {.backward = median(backward), .sums = median(sums), .together = median(together)};
}

}  // namespace sinkscope
