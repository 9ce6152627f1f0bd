#include "engine/model/decoder_memory.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "engine/model/fp8_scales.h"

namespace sinkscope {

DecoderMemory::DecoderMemory(const ModelConfig& config, const DecoderOptions& options, DType real,
                             const ParameterLayout& layout) {
  if (options.max_sequences < 1 || options.max_length < 1)
    throw std::invalid_argument("Decoder: a batch of " + std::to_string(options.max_sequences) + " x " +
                                std::to_string(options.max_length) + " tokens; expected at least 1 x 1");
  const std::int64_t N = options.max_sequences * options.max_length;
  const std::int64_t C = config.channels, H = config.heads, G = config.kv_heads, D = config.head_dim;
  const std::int64_t F = config.hidden, L = config.layers, V = config.vocab_size;
  const std::int64_t up_width = config.mlp == MlpType::swiglu ? 2 * F : F;
  const std::int64_t qkv_width = (H + 2 * G) * D;
  const bool layernorm = config.norm == NormType::layernorm;
  rows = N;
  // Chunks of a power of two: cuBLASLt's products of 8192 rows were a tenth faster than those of 9472 and 10672 (H200).
  const std::int64_t most_rows =
      std::max<std::int64_t>(32, options.logits_bytes / (V * static_cast<std::int64_t>(size_of(real))));
  head_rows = N <= most_rows ? N : static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(most_rows)));
  slots = options.training ? L : std::min<std::int64_t>(L, 2);

  const auto request_sections = [&](Arena& arena, const std::string& what, DType dtype) {
    const std::vector<Section>& sections = layout.sections();
    std::int64_t block = 0;
    for (std::int64_t layer = 0; layer < L; ++layer)
      block = std::max(block, sections[static_cast<std::size_t>(layer) + 1].size);
    const std::size_t first = arena.request(what + " of the embeddings", dtype, sections.front().size);
    const std::size_t last = arena.request(what + " behind the blocks", dtype, sections.back().size);
    const std::size_t even = arena.request(what + " of a block", dtype, block);
    const std::size_t odd = L > 1 ? arena.request(what + " of the next block", dtype, block) : even;
    std::vector<std::size_t> places = {first};
    for (std::int64_t layer = 0; layer < L; ++layer) places.push_back(layer % 2 == 0 ? even : odd);
    places.push_back(last);
    return places;
  };
  if (options.parameters_by_section)
    section_parameters = request_sections(parameters, "parameters", real);
  else
    parameter_flat = parameters.request("parameters", real, layout.flat_size());
  if (config.attention.sink == AttentionSink::off_by_one)
    zero_logits = parameters.request("fixed sink logits", real, H);
  if (options.training && options.gradients_by_section)
    section_gradients = request_sections(gradients, "gradients", DType::f32);
  else if (options.training)
    gradient_flat = gradients.request("gradients", DType::f32, layout.flat_size());

  const auto keep = [&](const std::string& name, DType dtype, std::int64_t size) {
    return activations.request(name, dtype, size);
  };
  blocks.resize(static_cast<std::size_t>(slots));
  const auto keep_in_blocks = [&](std::size_t BlockBuffers::*buffer, bool recomputed, const std::string& name,
                                  DType dtype, std::int64_t size) {
    for (std::size_t slot = 0; slot < blocks.size(); ++slot)
      blocks[slot].*buffer = !recomputed ? keep("block " + std::to_string(slot) + " " + name, dtype, size)
                             : slot == 0 ? keep("recomputed " + name, dtype, size)
                                         : blocks.front().*buffer;
  };
  using Block = BlockBuffers;
  const bool whole = options.training && options.recompute == Recompute::block;
  const bool mlp = options.training && options.recompute != Recompute::none;
  keep_in_blocks(&Block::residual, false, "residual", real, N * C);
  keep_in_blocks(&Block::norm1, whole, "norm1", real, N * C);
  if (layernorm) keep_in_blocks(&Block::mean1, whole, "norm1 mean", DType::f32, N);
  keep_in_blocks(&Block::rstd1, whole, "norm1 rstd", DType::f32, N);
  if (config.qk_norm) {
    keep_in_blocks(&Block::qkv_raw, whole, "qkv before qk-norm", real, N * qkv_width);
    keep_in_blocks(&Block::qk_rstd, whole, "qk-norm rstd", DType::f32, N * (H + G));
  }
  keep_in_blocks(&Block::qkv, whole, "qkv", real, N * qkv_width);
  keep_in_blocks(&Block::attention, whole, "attention", real, N * H * D);
  keep_in_blocks(&Block::lse, whole, "lse", DType::f32, N * H);
  if (config.parallel_block) {
    const std::size_t middle = keep("middle", real, N * C);
    for (Block& block : blocks) block.middle = middle;
  } else {
    keep_in_blocks(&Block::middle, whole, "middle", real, N * C);
  }
  keep_in_blocks(&Block::norm2, mlp, "norm2", real, N * C);
  if (layernorm) keep_in_blocks(&Block::mean2, mlp, "norm2 mean", DType::f32, N);
  keep_in_blocks(&Block::rstd2, mlp, "norm2 rstd", DType::f32, N);
  keep_in_blocks(&Block::up, mlp, "mlp up", real, N * up_width);
  keep_in_blocks(&Block::act, mlp, "mlp activation", real, N * F);
  final_residual = keep("final residual", real, N * C);
  final_norm = keep("final norm", real, N * C);
  if (layernorm) final_mean = keep("final norm mean", DType::f32, N);
  final_rstd = keep("final norm rstd", DType::f32, N);
  if (options.sink_positions > 0) sink = keep("sink scores", DType::f32, L * H * N);
  if (options.residual_norms) residual_norms = keep("residual norms", DType::f32, (L + 1) * N);
  if (options.sink_positions > 0)
    step_sums = keep("step statistics", DType::f64, StepStatistics::elements(L, H, options.sink_positions));
  if (options.fp8) fp8_scales = keep("FP8 scales", DType::f32, Fp8Scales::elements(L));
  const bool attention = options.training && options.attention_sums;
  if (attention) attention_sums = keep("attention sums", DType::f64, AttentionSums::elements(L, H, options.max_length));

  const auto use = [&](const std::string& name, DType dtype, std::int64_t size) {
    return scratch.request(name, dtype, size);
  };
  tokens = use("tokens", DType::i32, N);
  targets = use("targets", DType::i32, N);
  losses = use("losses", DType::f32, N);
  logits = use("logits", real, head_rows * V);
  if (real != DType::f32) logits_f32 = use("logits of one row", DType::f32, V);
  attention_delta = use("attention output", real, N * C);
  mlp_delta = use("mlp output", real, N * C);
  if (!options.training) return;
  d_residual = use("gradient of residual", real, N * C);
  d_norm = use("gradient of norm", real, N * C);
  d_final = use("gradient of final norm", real, N * C);
  if (config.mlp == MlpType::swiglu) d_act = use("gradient of mlp activation", real, N * F);
  d_up = use("gradient of mlp up", real, N * up_width);
  d_attention = use("gradient of attention", real, N * H * D);
  d_qkv = use("gradient of qkv", real, N * qkv_width);
  if (!attention) return;
  head_statistics = use("attention statistics of heads", DType::f32, kHeadStatistics * options.max_sequences * H);
  key_mass = use("key mass", DType::f32, N * H);
}

std::vector<MemoryLine> Decoder::memory_plan(const ModelConfig& config, const DecoderOptions& options,
                                             DType compute_dtype) {
  const ParameterLayout layout(config);
  const DecoderMemory memory(config, options, compute_dtype, layout);
  std::vector<MemoryLine> lines;
  for (const Arena* arena : {&memory.parameters, &memory.gradients, &memory.activations, &memory.scratch})
    for (const ArenaEntry& entry : arena->entries()) lines.push_back({arena->name(), entry.name, entry.bytes});
  return lines;
}

}  // namespace sinkscope
