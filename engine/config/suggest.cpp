#include "engine/config/suggest.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "engine/config/json_text.h"
#include "engine/config/words.h"

namespace sinkscope {
namespace {

using Specs = std::vector<const FieldSpec*>;

constexpr std::size_t kMaxSuggestions = 3;

/// What other software calls a field, where no likeness leads to it.
constexpr std::pair<std::string_view, const char*> kOtherNames[] = {
    {"batch", "train.micro_batch"},
    {"batch_size", "train.micro_batch"},
    {"micro_batch_size", "train.micro_batch"},
    {"epochs", "train.steps"},
    {"num_epochs", "train.steps"},
    {"num_steps", "train.steps"},
    {"max_steps", "train.steps"},
    {"max_iters", "train.steps"},
    {"iterations", "train.steps"},
    {"block_size", "train.sequence_length"},
    {"context_length", "train.sequence_length"},
    {"max_seq_len", "train.sequence_length"},
    {"n_layer", "model.layers"},
    {"n_layers", "model.layers"},
    {"num_layers", "model.layers"},
    {"num_hidden_layers", "model.layers"},
    {"n_embd", "model.channels"},
    {"d_model", "model.channels"},
    {"dim", "model.channels"},
    {"hidden_size", "model.channels"},
    {"n_head", "model.heads"},
    {"n_heads", "model.heads"},
    {"num_heads", "model.heads"},
    {"num_attention_heads", "model.heads"},
    {"num_key_value_heads", "model.kv_heads"},
    {"d_ff", "model.hidden"},
    {"intermediate_size", "model.hidden"},
    {"tie_word_embeddings", "model.tied_embedding"},
    {"dtype", "precision"},
    {"grad_clip", "train.optimizer.clip_norm"},
    {"max_grad_norm", "train.optimizer.clip_norm"},
    {"min_lr", "train.schedule.final_fraction"},
    {"eval_interval", "evaluation.every"},
    {"log_interval", "log.every"},
    {"save_every", "checkpoint.every"}};

std::vector<std::string_view> words_of(std::string_view key) {
  std::vector<std::string_view> words;
  for (std::size_t begin = 0; begin <= key.size();) {
    const std::size_t end = std::min(key.find('_', begin), key.size());
    words.push_back(key.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

/// How well `typed` abbreviates `known`: 3 by the first letters of its words ("lr" of "learning_rate"), 2 by the
/// beginnings of its words ("seq_len", "warmup"), 1 by letters in order from the first ("lrate"), 0 not at all.
int abbreviation(const std::string& typed, const std::string& known) {
  if (typed.empty() || typed.size() >= known.size() || typed.front() != known.front()) return 0;
  const std::vector<std::string_view> parts = words_of(typed), words = words_of(known);
  std::string initials;
  for (const std::string_view word : words) initials += word.substr(0, 1);
  if (typed == initials && words.size() > 1) return 3;
  const auto begins = [](std::string_view part, std::string_view word) { return word.starts_with(part); };
  if (parts.size() <= words.size() && std::equal(parts.begin(), parts.end(), words.begin(), begins)) return 2;
  std::size_t matched = 0;
  for (const char letter : known)
    if (matched < typed.size() && typed[matched] == letter) ++matched;
  return matched == typed.size() ? 1 : 0;
}

void collect_all(const FieldSpec& spec, Specs& all) {
  for (const FieldSpec& child : spec.children) {
    all.push_back(&child);
    collect_all(child, all);
  }
}

Specs below(const FieldSpec& spec) {
  Specs all;
  collect_all(spec, all);
  return all;
}

/// "train.optimizer" and "lr" of "train.optimizer.lr"; the first is empty without a dot.
std::pair<std::string, std::string> split(const std::string& path) {
  const std::size_t dot = path.rfind('.');
  if (dot == std::string::npos) return {"", path};
  return {path.substr(0, dot), path.substr(dot + 1)};
}

/// The section that a parent may have meant, or null: see suggestions().
const FieldSpec* section_meant(const std::string& parent) {
  if (parent.empty()) return &config_spec();
  Specs sections = below(config_spec());
  std::erase_if(sections, [](const FieldSpec* spec) { return spec->kind != FieldKind::section; });
  for (const FieldSpec* section : sections)
    if (section->path == parent) return section;
  for (const FieldSpec* section : sections)
    if (section->path.ends_with("." + parent)) return section;
  const std::string last = split(parent).second;
  const FieldSpec* nearest = nullptr;
  std::size_t nearest_distance = 0;
  const auto compare = [&](const std::string& typed, const std::string& known, const FieldSpec* section) {
    if (!is_near(typed, known)) return;
    const std::size_t distance = edit_distance(typed, known);
    if (nearest != nullptr && distance >= nearest_distance) return;
    nearest = section;
    nearest_distance = distance;
  };
  for (const FieldSpec* section : sections) {
    compare(parent, section->path, section);
    compare(last, section->key, section);
  }
  if (nearest != nullptr) return nearest;
  for (const FieldSpec* section : sections)
    if (last.size() > 1 && abbreviation(last, section->key) > 0) return section;
  return nullptr;
}

/// The paths with this key, in order.
std::vector<std::string> with_key(const std::string& key, const Specs& candidates) {
  std::vector<std::string> found;
  for (const FieldSpec* spec : candidates)
    if (spec->key == key) found.push_back(spec->path);
  return found;
}

std::string nearest_key(const std::string& key, const Specs& candidates) {
  std::vector<std::string> keys;
  for (const FieldSpec* spec : candidates) keys.push_back(spec->key);
  return nearest_word(key, keys);
}

/// The paths whose key is abbreviated best, and no worse than `least`.
std::vector<std::string> abbreviated(const std::string& key, const Specs& candidates, int least) {
  std::vector<std::string> found;
  int best = least;
  for (const FieldSpec* spec : candidates) {
    const int quality = abbreviation(key, spec->key);
    if (quality < best) continue;
    if (quality > best) found.clear();
    best = quality;
    found.push_back(spec->path);
  }
  return found;
}

std::vector<std::string> first_few(std::vector<std::string> paths) {
  paths.resize(std::min(paths.size(), kMaxSuggestions));
  return paths;
}

/// The candidates that such a value fits.
Specs fitting(Specs candidates, const Json& value) {
  std::erase_if(candidates, [&](const FieldSpec* spec) {
    const bool takes_object = spec->kind == FieldKind::section || spec->kind == FieldKind::axes;
    return takes_object != value.is_object();
  });
  return candidates;
}

Specs children_of(const FieldSpec& section) {
  Specs children;
  for (const FieldSpec& child : section.children) children.push_back(&child);
  return children;
}

}  // namespace

std::string either(const std::vector<std::string>& options) {
  std::string text;
  for (std::size_t i = 0; i < options.size(); ++i)
    text += (i == 0 ? "" : i + 1 == options.size() ? " or " : ", ") + in_quotes(options[i]);
  return text;
}

std::vector<std::string> suggestions(const std::string& path, const Json& value) {
  const auto [parent, key] = split(path);
  const Specs all = fitting(below(config_spec()), value);
  const FieldSpec* section = section_meant(parent);
  if (section != nullptr) {
    const auto here = with_key(key, fitting(children_of(*section), value));
    if (!here.empty()) return here;
  }
  const std::vector<std::string> same_key = with_key(key, all);
  if (!same_key.empty() && same_key.size() <= kMaxSuggestions) return same_key;
  if (!value.is_object())
    for (const auto& [name, known] : kOtherNames)
      if (key == name) return {known};

  if (section != nullptr) {
    const Specs beside = children_of(*section);
    for (const Specs& candidates : {fitting(beside, value), beside})  // a slip of the pen may be of either kind
      if (const std::string near = nearest_key(key, candidates); !near.empty()) return with_key(near, candidates);
    auto found = abbreviated(key, fitting(beside, value), 1);
    if (found.empty() && !parent.empty()) found = abbreviated(key, fitting(below(*section), value), 1);
    if (!found.empty()) return first_few(found);
  }
  if (!same_key.empty()) return first_few(same_key);
  if (key.size() > 1)
    if (const auto found = abbreviated(key, all, 2); !found.empty()) return first_few(found);
  if (const std::string near = nearest_key(key, all); !near.empty()) return first_few(with_key(near, all));
  if (key.size() > 1) return first_few(abbreviated(key, all, 1));
  return {};
}

std::string hint_for(const std::string& path, const Json& value) {
  const std::vector<std::string> meant = suggestions(path, value);
  if (!meant.empty()) return "; did you mean " + either(meant) + "?";
  const std::string parent = split(path).first;
  const FieldSpec* section = parent.empty() ? &config_spec() : find_spec(parent);
  const bool known = section != nullptr && !section->children.empty();
  if (!known) section = &config_spec();
  std::string text = known ? "; known here are " : "; known without a dot are ";
  for (std::size_t i = 0; i < section->children.size(); ++i) text += (i == 0 ? "" : ", ") + section->children[i].key;
  return text;
}

}  // namespace sinkscope
