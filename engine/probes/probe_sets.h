// The fixed probe sets of a run: what every probe pass looks at.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/config.h"
#include "engine/data/dataset.h"

namespace sinkscope {

/// Sequences that stay the same for a whole run, on the host.
struct ProbeSet {
  std::string name;
  std::int64_t length = 0;            // T
  std::int64_t sequences = 0;         // B
  bool with_bos = false;              // a BOS at position 0 of every sequence
  std::vector<std::int32_t> inputs;   // (B, T)
  std::vector<std::int32_t> targets;  // (B, T): the next token; -1: not known
};

struct ProbeSetOptions {
  std::int64_t length = 0;        // T of training, at least 2
  std::int64_t short_length = 0;  // T of the short natural-text sets, at least 2
  std::int64_t sequences = 0;     // of each set, at least 1
  std::int64_t vocab_size = 0;    // the dataset's: random tokens are drawn from [0, vocab_size)
  std::int32_t bos_id = -1;       // -1: no sets with BOS; may be one of the rows beyond vocab_size
  std::int32_t eos_id = -1;
  std::uint64_t seed = 1;
};

/// The set whose series the phases are read from (METRICS section 4): held-out text at the training T,
/// begun with a BOS where every training window is. Documents begin anywhere in a window, so
/// under `document` most training windows begin without one.
std::string phase_probe_set(BosPolicy bos);

/// The options of a config that resolve_with_dataset has completed with a dataset of `vocab_size` tokens;
/// rows beyond them only pad the model's vocabulary, so none is drawn. The seed is not the training seed:
/// runs that differ only in seed are probed with the same sequences.
ProbeSetOptions probe_set_options(const Config& config, std::int64_t vocab_size);

/// The probe sets, in this order, as a function of the options and the stream alone:
///   natural, natural_bos              windows of held-out text at the training T
///   natural_short, natural_short_bos  the same at short_length; left out when that is >= T
///   random     tokens drawn uniformly and independently from the vocabulary less BOS and EOS
///   repeated   one token, drawn so for each sequence, T times: the negative control
/// A set with BOS holds the windows of its twin without, one BOS before them and the last token
/// dropped, so that their targets overlap in all but one place. Windows are chosen by a seeded
/// permutation, in the order of the text; where the text has fewer than `sequences` windows all are
/// taken, and the set says how many. Throws std::runtime_error when the text is shorter than one
/// window or the vocabulary holds nothing but BOS and EOS, std::invalid_argument naming the option
/// that is out of range.
std::vector<ProbeSet> build_probe_sets(const TokenStream& validation, const ProbeSetOptions& options);

/// The sets that need no text, random and repeated. Throws as build_probe_sets does.
std::vector<ProbeSet> build_made_sets(const ProbeSetOptions& options);

}  // namespace sinkscope
