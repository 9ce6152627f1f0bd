// `sinkscope probe`: every probe set through a finished model, and on demand the causal tests.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "engine/data/dataset.h"
#include "engine/data/memory_stream.h"
#include "engine/data/text_source.h"
#include "engine/files/new_file.h"
#include "engine/files/new_folder.h"
#include "engine/probes/causal.h"
#include "engine/probes/phases.h"
#include "engine/probes/probe_pass.h"
#include "engine/train/run_files.h"
#include "engine/train/trainer.h"
#include "tools/commands.h"
#include "tools/model_source.h"
#include "tools/program.h"
#include "tools/report/probe_report.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kDefaultLength = 512;  // of a model whose training length is not known

struct ProbeArguments {
  std::string model;
  std::string output;
  std::vector<std::string> text;
  std::string dataset, tokenizer;
  std::optional<std::int64_t> length;  // else that of training, else 512 or what the model takes
  std::int64_t sequences = 32;
  // Not given: as the run had them, else the defaults of a config.
  std::optional<std::int64_t> short_length, positions, from_layer;
  std::optional<double> threshold;
  std::int64_t seed = 1;
  std::string device = "auto", precision = "auto";
  std::int64_t threads = 0;
  std::optional<std::int64_t> batch;  // sequences at once; else as many as make 8192 tokens
  bool causal = false;
  std::string causal_set;
  CausalOptions tests;
  std::optional<std::int64_t> rotary_shift;  // not given: 16, where the sequences are longer
};

/// The documents of text files, each ended by EOS where there is one.
std::vector<std::int32_t> tokens_of(const std::vector<fs::path>& files, const Tokenizer& tokenizer,
                                    std::int32_t eos_id) {
  std::vector<std::int32_t> tokens;
  for_each_document(files, {}, [&](std::string_view document) {
    const std::vector<std::int32_t> ids = tokenizer.encode(document);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    if (eos_id >= 0) tokens.push_back(eos_id);
    return true;
  });
  return tokens;
}

/// Held-out text and what its tokens mean.
struct TextSource {
  std::unique_ptr<TokenStream> stream{};  // null: there is none
  std::int32_t bos_id = -1, eos_id = -1;
  std::int64_t vocab_size = 0;
  std::string description;
};

TextSource dataset_text(const fs::path& folder, const ModelSource& model) {
  DataConfig data;
  data.path = folder.string();
  Dataset dataset = open_dataset(data);
  if (!dataset.validation)
    throw std::runtime_error(folder.string() + ": has no validation shards, expected held-out text");
  if (dataset.vocab_size > model.model.vocab_size)
    throw std::runtime_error(folder.string() + ": has a vocabulary of " + std::to_string(dataset.vocab_size) +
                             " tokens, the model one of " + std::to_string(model.model.vocab_size));
  return {.stream = std::move(dataset.validation),
          .bos_id = model.bos_id >= 0 ? model.bos_id : dataset.bos_id,
          .eos_id = model.eos_id >= 0 ? model.eos_id : dataset.eos_id,
          .vocab_size = dataset.vocab_size,
          .description = "held-out text of " + folder.string()};
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

TextSource own_text(const ProbeArguments& arguments, const ModelSource& model) {
  const std::unique_ptr<Tokenizer> tokenizer =
      arguments.tokenizer.empty() ? open_tokenizer_of(model) : open_tokenizer(arguments.tokenizer);
  if (!tokenizer)
    throw std::runtime_error(
        model.folder.string() +
        ": holds no tokenizer that can be read (tokenizer.model, or vocab.json and merges.txt), which --text needs; "
        "give --tokenizer PATH, or --dataset DIR in place of --text");
  if (tokenizer->vocab_size() > model.model.vocab_size)
    throw std::runtime_error("the tokenizer has " + std::to_string(tokenizer->vocab_size()) + " tokens, the model " +
                             std::to_string(model.model.vocab_size) + "; give the one that the model was trained with");
  const std::int32_t bos = model.bos_id >= 0 ? model.bos_id : tokenizer->bos_id();
  const std::int32_t eos = model.eos_id >= 0 ? model.eos_id : tokenizer->eos_id();
  const std::vector<fs::path> files = list_text_files({arguments.text.begin(), arguments.text.end()});
  return {.stream = std::make_unique<MemoryStream>(tokens_of(files, *tokenizer, eos)),
          .bos_id = bos,
          .eos_id = eos,
          .vocab_size = tokenizer->vocab_size(),
          .description = std::to_string(files.size()) + (files.size() == 1 ? " text file" : " text files")};
}

TextSource choose_text(const ProbeArguments& arguments, const ModelSource& model, const std::optional<Config>& run) {
  if (!arguments.text.empty()) return own_text(arguments, model);
  if (!arguments.dataset.empty()) return dataset_text(arguments.dataset, model);
  if (run && !run->data.path.empty() && fs::exists(run->data.path)) return dataset_text(run->data.path, model);
  std::cerr << "no text"
            << (run && !run->data.path.empty() ? " (the run's dataset " + run->data.path + " is not there)" : "")
            << ": the natural sets are left out; give --text FILE or --dataset DIR for them\n";
  return {.stream = nullptr, .bos_id = model.bos_id, .eos_id = model.eos_id, .vocab_size = model.model.vocab_size,
          .description = "none"};
}

std::int64_t choose_length(const ProbeArguments& arguments, const ModelSource& model,
                           const std::optional<Config>& run) {
  const std::int64_t most = model.model.max_sequence_length;
  if (arguments.length.value_or(0) > most)
    throw std::runtime_error("--length " + std::to_string(*arguments.length) + " is beyond the model's " +
                             std::to_string(most) + " positions");
  if (arguments.length) return *arguments.length;
  return std::min(run ? run->train.sequence_length : kDefaultLength, most);
}

/// With sets named as in training: the first that there is of `names`.
std::size_t find_set(const std::vector<ProbeSet>& sets, const std::vector<std::string>& names) {
  for (const std::string& name : names)
    for (std::size_t i = 0; i < sets.size(); ++i)
      if (sets[i].name == name) return i;
  return 0;
}

std::size_t named_set(const std::vector<ProbeSet>& sets, const std::string& name) {
  std::string known;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    if (sets[i].name == name) return i;
    known += (i == 0 ? "" : ", ") + sets[i].name;
  }
  throw std::runtime_error("--causal-set " + name + ": there is no such probe set, expected one of " + known);
}

/// Whether a model whose training is not known was trained with a BOS at every window: by where its sink is stronger.
BosPolicy stronger_with_bos(const std::vector<ProbeRecord>& records) {
  double without = 0, with = 0;
  for (const ProbeRecord& record : records) {
    if (record.set == "natural") without = record.sink_excess.front();
    if (record.set == "natural_bos") with = record.sink_excess.front();
  }
  return with > without ? BosPolicy::sequence : BosPolicy::none;
}

Json sets_json(const std::vector<ProbeSet>& sets) {
  Json json;
  for (const ProbeSet& set : sets) {
    const auto rows = [&](const std::vector<std::int32_t>& tokens) {
      Json list = Json::array();
      for (std::int64_t b = 0; b < set.sequences; ++b)
        list.push_back(
            std::vector<std::int32_t>(tokens.begin() + b * set.length, tokens.begin() + (b + 1) * set.length));
      return list;
    };
    json[set.name] = {{"length", set.length}, {"sequences", set.sequences}, {"with_bos", set.with_bos},
                      {"inputs", rows(set.inputs)}, {"targets", rows(set.targets)}};
  }
  return json;
}

fs::path default_output(const ModelSource& model) {
  fs::path folder = fs::absolute(model.folder).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (model.run) return "probe-" + model.run->filename().string() + "-" + folder.filename().string();
  return "probe-" + folder.filename().string();
}

template <class Enum>
Enum parse_enum(const char* flag, const std::string& word) {
  std::string known;
  for (const auto& [value, name] : enum_names<Enum>()) {
    if (name == word) return value;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  throw std::runtime_error(std::string(flag) + " " + word + ": expected one of " + known);
}

void at_least(const char* flag, std::int64_t value, std::int64_t least) {
  if (value < least)
    throw std::runtime_error(std::string(flag) + " " + std::to_string(value) + ": expected at least " +
                             std::to_string(least));
}

void check_arguments(const ProbeArguments& a) {
  at_least("--length", a.length.value_or(3), 3);
  at_least("--short-length", a.short_length.value_or(3), 3);
  at_least("--sequences", a.sequences, a.causal ? 2 : 1);
  at_least("--positions", a.positions.value_or(1), 1);
  at_least("--from-layer", a.from_layer.value_or(0), 0);
  at_least("--batch", a.batch.value_or(1), 1);
  at_least("--position", a.tests.position, 1);
  at_least("--isolated-layers", a.tests.isolated_layers, 1);
  at_least("--rotary-shift", a.rotary_shift.value_or(1), 1);
  at_least("--threads", a.threads, 0);
  at_least("--seed", a.seed, 0);
  at_least("--resamples", a.tests.resamples, 100);
  if (const double eps = a.threshold.value_or(0); !(eps >= 0 && eps <= 1))
    throw std::runtime_error("--threshold " + std::to_string(eps) + ": expected 0 to 1");
  if (!a.text.empty() && !a.dataset.empty()) throw std::runtime_error("--text and --dataset exclude each other");
}

void probe(const ProbeArguments& arguments) {
  check_arguments(arguments);
  const ModelSource model = open_model_source(arguments.model);
  const fs::path place = arguments.output.empty() ? default_output(model) : fs::path(arguments.output);
  { const PendingFolder possible(place); }  // made when there is something to put in, so that a stop leaves nothing
  std::optional<Config> run;  // that the checkpoint lies in
  if (model.run) run = read_run_config(*model.run);

  Config config;
  config.device = parse_enum<Device>("--device", arguments.device);
  config.precision = parse_enum<Precision>("--precision", arguments.precision);
  if (config.precision == Precision::fp8)
    throw std::runtime_error("--precision fp8: FP8 scales belong to a run that trains; expected auto, fp32 or bf16");
  config.threads = arguments.threads;
  config.model = model.model;
  if (run) config.probes = run->probes;
  ProbeConfig& probes = config.probes;
  probes.sequences = arguments.sequences;
  probes.positions = arguments.positions.value_or(probes.positions);
  probes.sink_threshold = arguments.threshold.value_or(probes.sink_threshold);
  probes.short_length = arguments.short_length.value_or(probes.short_length);
  probes.from_layer = arguments.from_layer.value_or(std::min(probes.from_layer, model.model.layers - 1));
  if (probes.from_layer >= model.model.layers)
    throw std::runtime_error("--from-layer " + std::to_string(probes.from_layer) + ": the model has " +
                             std::to_string(model.model.layers) + " layers, counted from 0");
  if (arguments.causal && arguments.tests.isolated_layers > std::max<std::int64_t>(2, model.model.layers))
    throw std::runtime_error("--isolated-layers " + std::to_string(arguments.tests.isolated_layers) +
                             ": the model has " + std::to_string(model.model.layers) + " layers");
  const std::int64_t length = choose_length(arguments, model, run);
  if (arguments.short_length.value_or(0) > length)
    throw std::runtime_error("--short-length " + std::to_string(*arguments.short_length) + ": expected at most the " +
                             std::to_string(length) + " tokens of --length");
  config.train.sequence_length = length;
  const TextSource text = choose_text(arguments, model, run);

  if (text.stream && text.stream->size() <= length)
    throw std::runtime_error((arguments.text.empty() ? text.description : "--text " + joined(arguments.text)) + ": " +
                             std::to_string(text.stream->size()) + " tokens are fewer than one window of " +
                             std::to_string(length + 1) + "; give more text, or a smaller --length");

  ProbeSetOptions options;
  options.length = length;
  options.short_length = std::min(probes.short_length, length);
  options.sequences = arguments.sequences;
  options.vocab_size = text.vocab_size;
  options.bos_id = text.bos_id;
  options.eos_id = text.eos_id;
  options.seed = static_cast<std::uint64_t>(arguments.seed);
  const std::vector<ProbeSet> sets = text.stream ? build_probe_sets(*text.stream, options) : build_made_sets(options);

  const auto expect_within = [&](const char* flag, std::int64_t value, std::int64_t most) {
    if (value > most)
      throw std::runtime_error(std::string(flag) + " " + std::to_string(value) + ": expected at most " +
                               std::to_string(most) + ", of the " + std::to_string(options.short_length) +
                               " tokens of the shortest sequences");
  };
  expect_within("--positions", probes.positions, options.short_length);
  if (arguments.causal) expect_within("--position", arguments.tests.position, options.short_length - 1);
  const std::int64_t watched = std::max(probes.positions, arguments.causal ? arguments.tests.position + 1 : 0);
  const std::int64_t batch = arguments.batch.value_or(std::max<std::int64_t>(1, 8192 / length));
  config.train.micro_batch = std::min(batch, arguments.sequences);
  const std::unique_ptr<Ops> ops = make_ops(config);
  DecoderOptions decoder_limits = decoder_options(config);
  decoder_limits.training = false;
  decoder_limits.sink_positions = watched;
  decoder_limits.residual_norms = true;
  Decoder decoder(*ops, model.model, decoder_limits);
  {
    std::vector<float> parameters(static_cast<std::size_t>(decoder.layout().flat_size()));
    model.load(parameters);
    load_parameters(*ops, decoder, parameters);
  }

  ProbeReport report;
  report.source = arguments.model;
  report.step = model.step;
  report.device = ops->description();
  report.build = build_description();
  report.text = text.description +
                (text.bos_id >= 0 ? "; BOS is token " + std::to_string(text.bos_id) : "; there is no BOS token");
  report.seed = arguments.seed;
  report.model = model.model;
  report.parameters = decoder.layout().parameter_count();
  report.sink_threshold = probes.sink_threshold;
  report.from_layer = probes.from_layer;
  ProbePass pass(*ops, decoder, probes, sets);
  report.sets = pass.run(model.step.value_or(0), 0);
  const BosPolicy bos = run ? run->data.bos : stronger_with_bos(report.sets);
  report.shown = find_set(sets, {phase_probe_set(bos), "natural", "random"});

  if (arguments.causal) {
    const ProbeSet& chosen =
        arguments.causal_set.empty() ? causal_probe_set(sets, bos) : sets[named_set(sets, arguments.causal_set)];
    CausalOptions tests = arguments.tests;
    tests.sink_threshold = probes.sink_threshold;
    tests.rotary_shift = arguments.rotary_shift.value_or(tests.rotary_shift);
    if (arguments.rotary_shift && model.model.position != PositionEncoding::rope)
      throw std::runtime_error("--rotary-shift: the model has no rotary embedding");
    if (arguments.rotary_shift && *arguments.rotary_shift >= chosen.length)
      throw std::runtime_error("--rotary-shift " + std::to_string(*arguments.rotary_shift) +
                               ": expected less than the " + std::to_string(chosen.length) +
                               " positions of probe set " + chosen.name);
    const std::unique_ptr<ProgressLine> line = make_progress_line("causal tests", "passes");
    report.causal = CausalTests(*ops, decoder, tests).run(chosen, sets, [&](const CausalProgress& progress) {
      line->update(progress.done, progress.passes, progress.share);
    });
  }

  std::cout << probe_text(report) << std::flush;
  PendingFolder output(place);
  write_new_file(output.path() / "probe.json", to_json(report).dump(2) + "\n");
  write_new_file(output.path() / "sets.json", sets_json(sets).dump() + "\n");
  write_new_file(output.path() / "report.html", probe_page(report));
  output.commit();
  std::cout << "\ntext: " << report.text << "\nwritten: " << place.string()
            << " (probe.json, sets.json, report.html, which says what each column means)" << std::endl;
}

}  // namespace

void add_probe_command(CLI::App& app) {
  const auto a = std::make_shared<ProbeArguments>();
  CLI::App* command = app.add_subcommand("probe", "Measure a finished model's attention sink, and test what it needs");
  command
      ->add_option("model", a->model,
                   "checkpoint, run directory (its newest checkpoint), or a folder in Hugging Face layout")
      ->required()
      ->type_name("FOLDER");
  command->add_option("-o,--output", a->output, "folder to create (default: probe-NAME)")->type_name("DIR");
  CLI::Option* text =
      command->add_option("--text", a->text, "held-out text file or folder, as `tokenize` takes it; may be repeated")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command
      ->add_option("--dataset", a->dataset,
                   "dataset folder, of which the validation shards are read (default: the run's)")
      ->type_name("DIR");
  command->add_option("--tokenizer", a->tokenizer, "for --text, as `tokenize` takes it (default: the model's own)")
      ->type_name("PATH")
      ->needs(text);
  command->add_option(
      "--length", a->length,
      "tokens of a sequence, T (default: that of the run's training, else 512 or what the model takes)");
  command->add_option("--short-length", a->short_length,
                      "T of the short sets (default: the run's, else 64, where the literature reads sink rates)");
  command->add_option("--sequences", a->sequences, "of each set, default 32");
  command->add_option("--positions", a->positions, "first positions that are watched, K (default: the run's, else 8)");
  command->add_option("--from-layer", a->from_layer,
                      "first layer of the rate over late layers (default: the run's, else 2)");
  command->add_option("--threshold", a->threshold,
                      "sink score above which a head counts as a sink (default: the run's, else 0.3)");
  command->add_option("--seed", a->seed, "of the choice of sequences, default 1");
  command->add_option("--device", a->device, "auto, cpu or cuda");
  command->add_option("--precision", a->precision, "auto, fp32 or bf16");
  command->add_option("--threads", a->threads, "CPU threads, default all");
  command->add_option("--batch", a->batch, "sequences that go through at once (default: 8192 tokens)");
  CLI::Option* causal =
      command->add_flag("--causal", a->causal,
                        "knock out, transplant, isolate, shift: what the sink needs and whether it moves");
  const auto add_of_causal = [&](const char* flag, auto& value, const char* help) {
    command->add_option(flag, value, help)->needs(causal);
  };
  add_of_causal("--causal-set", a->causal_set,
                "probe set of the causal tests (default: natural_short, or natural_short_bos of a run with BOS)");
  add_of_causal("--position", a->tests.position, "p, where a second sink is to be made, default 4");
  add_of_causal("--isolated-layers", a->tests.isolated_layers, "layers in which p attends to itself alone, default 2");
  add_of_causal("--rotary-shift", a->rotary_shift, "rotary index of position 0 in the control, default 16");
  add_of_causal("--resamples", a->tests.resamples, "of the bootstrap, default 2000");
  command->callback([a] { probe(*a); });
}

}  // namespace sinkscope
