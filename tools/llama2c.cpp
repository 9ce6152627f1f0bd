#include "tools/llama2c.h"

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <span>
#include <stdexcept>

#include "engine/data/mapped_file.h"
#include "engine/data/utf8.h"
#include "engine/files/system_error.h"
#include "engine/model/parameters.h"

namespace sinkscope {
namespace {

constexpr std::int64_t kHeaderBytes = 7 * sizeof(std::int32_t);
constexpr std::int32_t kLaterMagic = 0x616b3432;  // "ak42", of versions 1 and 2
constexpr std::int32_t kUnknown = 0, kBos = 1, kEos = 2;

struct Size {
  const char* name;
  std::int64_t value, maximum;
};

/// The model that a header describes.
ModelConfig read_header(const std::filesystem::path& file, const MappedFile& content) {
  if (content.size() < kHeaderBytes)
    refuse(file, std::to_string(content.size()) + " bytes, a llama2.c checkpoint begins with " +
                     std::to_string(kHeaderBytes));
  std::array<std::int32_t, 7> header{};
  std::memcpy(header.data(), content.data(), kHeaderBytes);
  if (header[0] == kLaterMagic)
    refuse(file,
           "is a llama2.c checkpoint of version " + std::to_string(header[1]) + ", expected version 0, without magic");
  const std::int64_t vocab_size = header[5];
  // The largest sizes that a configuration allows.
  for (const auto& [name, value, maximum] : {Size{"dim", header[0], 131072}, {"hidden_dim", header[1], 1 << 20},
                                             {"n_layers", header[2], 1024}, {"n_heads", header[3], 1024},
                                             {"n_kv_heads", header[4], 1024}, {"seq_len", header[6], 1 << 20}})
    if (value < 1 || value > maximum)
      refuse(file, std::string(name) + " is " + std::to_string(value) + ", expected 1 to " + std::to_string(maximum));
  if (std::abs(vocab_size) < 3 || std::abs(vocab_size) > 1 << 24)
    refuse(file, "vocab_size is " + std::to_string(vocab_size) +
                     ", expected 3, of which the last is EOS, to 16777216, or that below 0 for an untied head");
  ModelConfig model;
  model.preset = ModelPreset::llama;
  model.channels = header[0];
  model.hidden = header[1];
  model.layers = header[2];
  model.heads = header[3];
  model.kv_heads = header[4];
  model.vocab_size = std::abs(vocab_size);
  model.tied_embedding = vocab_size > 0;
  model.max_sequence_length = header[6];
  model.norm_eps = 1e-5;
  model.rope_theta = 10000.0;
  if (model.channels % (2 * model.heads) != 0)
    refuse(file, "dim is " + std::to_string(model.channels) +
                     ", expected heads of an even size: a multiple of twice n_heads (" + std::to_string(model.heads) +
                     ")");
  if (model.heads % model.kv_heads != 0)
    refuse(file, "n_heads is " + std::to_string(model.heads) + ", expected a multiple of n_kv_heads (" +
                     std::to_string(model.kv_heads) + ")");
  model.head_dim = model.channels / model.heads;
  return model;
}

/// Bytes of the whole file.
std::int64_t expected_bytes(const ModelConfig& model) {
  const std::int64_t C = model.channels, F = model.hidden, L = model.layers, V = model.vocab_size;
  const std::int64_t key_rows = model.kv_heads * model.head_dim;
  const std::int64_t layer = 2 * C + 2 * C * C + 2 * key_rows * C + 3 * F * C;
  const std::int64_t tables = model.max_sequence_length * model.head_dim;
  return kHeaderBytes + 4 * (V * C + L * layer + C + tables + (model.tied_embedding ? 0 : V * C));
}

/// Copies tensors from the front of the file to their places.
class Reader {
 public:
  Reader(const MappedFile& content, const ModelConfig& model)
      : next_(content.data() + kHeaderBytes), model_(model), layout_(model),
        parameters_(static_cast<std::size_t>(layout_.flat_size())) {}

  /// The whole parameter.
  void whole(const std::string& parameter) { rows(parameter, 0, layout_.find(parameter).shape[0]); }
  /// One tensor for all layers: rows [begin, begin + count) of `parameter` of every block.
  void layers(const std::string& parameter, std::int64_t begin, std::int64_t count) {
    for (std::int64_t layer = 0; layer < model_.layers; ++layer) rows(of_layer(layer, parameter), begin, count);
  }
  /// The same for rows of `heads` heads whose rotary pairs are neighbours.
  void rotated_layers(const std::string& parameter, std::int64_t begin, std::int64_t heads) {
    const std::int64_t D = model_.head_dim;
    for (std::int64_t layer = 0; layer < model_.layers; ++layer)
      for (std::int64_t head = 0; head < heads; ++head)
        for (std::int64_t i = 0; i < D; ++i)
          rows(of_layer(layer, parameter), begin + head * D + i / 2 + (i % 2) * (D / 2), 1);
  }
  void skip(std::int64_t elements) { next_ += elements * static_cast<std::int64_t>(sizeof(float)); }
  std::vector<float> take() { return std::move(parameters_); }

 private:
  static std::string of_layer(std::int64_t layer, const std::string& parameter) {
    return "blocks." + std::to_string(layer) + "." + parameter;
  }
  void rows(const std::string& parameter, std::int64_t begin, std::int64_t count) {
    const ParameterSpec& spec = layout_.find(parameter);
    const std::int64_t width = spec.shape.size() == 2 ? spec.shape[1] : 1;
    std::memcpy(parameters_.data() + spec.offset + begin * width, next_,
                static_cast<std::size_t>(count * width) * sizeof(float));
    skip(count * width);
  }

  const std::byte* next_;
  const ModelConfig& model_;
  ParameterLayout layout_;
  std::vector<float> parameters_;
};

// ---- protocol buffers (https://protobuf.dev/programming-guides/encoding), as much as a model needs ------------

/// Fields of one message, of sentencepiece_model.proto.
class Message {
 public:
  void integer(int field, std::int64_t value) {
    varint(static_cast<std::uint64_t>(field) << 3U);
    varint(static_cast<std::uint64_t>(value));
  }
  void real(int field, float value) {
    varint(static_cast<std::uint64_t>(field) << 3U | 5U);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(int field, const std::string& value) {
    varint(static_cast<std::uint64_t>(field) << 3U | 2U);
    varint(value.size());
    bytes_ += value;
  }
  void message(int field, const Message& value) { text(field, value.bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7U) bytes_ += static_cast<char>(value | 0x80U);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

enum class PieceType : std::uint8_t { normal = 1, unknown = 2, control = 3, byte = 6 };

struct Piece {
  std::string text;
  float score = 0;
  PieceType type = PieceType::normal;
};

/// "<0x0A>", as sentencepiece writes the bytes that rare characters fall back to.
bool is_byte(const std::string& text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return text.size() == 6 && text.starts_with("<0x") && text[5] == '>' &&
         kDigits.find(text[3]) != std::string_view::npos && kDigits.find(text[4]) != std::string_view::npos;
}

std::string with_visible_spaces(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == ' ' ? std::string("\xE2\x96\x81") : std::string(1, c);
  return out;
}

std::vector<Piece> read_pieces(const std::filesystem::path& file, std::int64_t vocab_size) {
  const MappedFile content(file);
  std::int64_t at = 0;
  const auto token = [&](std::int64_t id) { return "token " + std::to_string(id); };
  const auto read = [&](auto& value, const std::string& what) {
    if (content.size() - at < static_cast<std::int64_t>(sizeof(value)))
      refuse(file, "ends after " + std::to_string(content.size()) + " bytes, within " + what + ", expected " +
                       std::to_string(vocab_size) + " tokens as the checkpoint has");
    std::memcpy(&value, content.data() + at, sizeof(value));
    at += static_cast<std::int64_t>(sizeof(value));
  };
  std::int32_t longest = 0;
  read(longest, "the length of the longest token");
  std::vector<Piece> pieces(static_cast<std::size_t>(vocab_size));
  for (std::int64_t id = 0; id < vocab_size; ++id) {
    Piece& piece = pieces[static_cast<std::size_t>(id)];
    std::int32_t length = 0;
    read(piece.score, token(id));
    read(length, token(id));
    if (length < 1 || length > content.size() - at)
      refuse(file, token(id) + " has " + std::to_string(length) + " bytes, expected 1 to the " +
                       std::to_string(content.size() - at) + " that follow");
    if (!std::isfinite(piece.score)) refuse(file, token(id) + " has a score that is not finite");
    piece.text.assign(reinterpret_cast<const char*>(content.data() + at), static_cast<std::size_t>(length));
    at += length;
    if (first_invalid_utf8(piece.text)) refuse(file, token(id) + " is not UTF-8");
  }
  if (at != content.size())
    refuse(file, std::to_string(content.size()) + " bytes, expected " + std::to_string(at) + " for the " +
                     std::to_string(vocab_size) + " tokens that the checkpoint has");
  return pieces;
}

/// Types and texts as sentencepiece has them.
void restore_pieces(const std::filesystem::path& file, std::vector<Piece>& pieces) {
  const auto special = [&](std::int32_t id, const char* text, PieceType type) {
    Piece& piece = pieces[static_cast<std::size_t>(id)];
    // The exporter puts line breaks around BOS and EOS.
    if (piece.text != text && piece.text != "\n" + std::string(text) + "\n")
      refuse(file, "token " + std::to_string(id) + " is \"" + piece.text + "\", expected \"" + text + "\"");
    piece = {text, 0.0F, type};
  };
  special(kUnknown, "<unk>", PieceType::unknown);
  special(kBos, "<s>", PieceType::control);
  special(kEos, "</s>", PieceType::control);
  std::size_t bytes = 0;
  std::map<std::string, std::size_t> seen;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    Piece& piece = pieces[id];
    if (piece.type == PieceType::normal && is_byte(piece.text)) {
      piece.type = PieceType::byte;
      ++bytes;
    } else if (piece.type == PieceType::normal) {
      piece.text = with_visible_spaces(piece.text);
    }
    const auto [place, is_new] = seen.emplace(piece.text, id);
    if (!is_new)
      refuse(file, "token " + std::to_string(id) + " is \"" + piece.text + "\", which token " +
                       std::to_string(place->second) + " is too");
  }
  if (bytes != 256)
    refuse(file, std::to_string(bytes) + " tokens stand for single bytes, expected 256, \"<0x00>\" to \"<0xFF>\"");
}

}  // namespace

Llama2cCheckpoint read_llama2c_checkpoint(const std::filesystem::path& file) {
  const MappedFile content(file);
  const ModelConfig model = read_header(file, content);
  const std::int64_t C = model.channels, F = model.hidden, H = model.heads, G = model.kv_heads, D = model.head_dim;
  if (content.size() != expected_bytes(model))
    refuse(file, std::to_string(content.size()) + " bytes, expected " + std::to_string(expected_bytes(model)) +
                     " for dim " + std::to_string(C) + ", hidden_dim " + std::to_string(F) + ", n_layers " +
                     std::to_string(model.layers) + ", n_heads " + std::to_string(H) + ", n_kv_heads " +
                     std::to_string(G) + ", vocab_size " +
                     std::to_string(model.tied_embedding ? model.vocab_size : -model.vocab_size) + ", seq_len " +
                     std::to_string(model.max_sequence_length));
  Reader reader(content, model);
  reader.whole("embed.token.weight");
  reader.layers("norm1.weight", 0, C);
  reader.rotated_layers("attention.qkv.weight", 0, H);
  reader.rotated_layers("attention.qkv.weight", H * D, G);
  reader.layers("attention.qkv.weight", (H + G) * D, G * D);
  reader.layers("attention.output.weight", 0, C);
  reader.layers("norm2.weight", 0, C);
  reader.layers("mlp.gate_up.weight", 0, F);
  reader.layers("mlp.down.weight", 0, C);
  reader.layers("mlp.gate_up.weight", F, F);
  reader.whole("final_norm.weight");
  reader.skip(model.max_sequence_length * D);
  if (!model.tied_embedding) reader.whole("head.weight");
  return {model, reader.take()};
}

std::string sentencepiece_model_of_llama2c(const std::filesystem::path& file, std::int64_t vocab_size) {
  if (vocab_size < 3 + 256)
    refuse(file, "the checkpoint has " + std::to_string(vocab_size) +
                     " tokens, expected 259 or more: <unk>, <s>, </s> and 256 bytes");
  std::vector<Piece> pieces = read_pieces(file, vocab_size);
  restore_pieces(file, pieces);
  Message model;
  for (const Piece& piece : pieces) {
    Message message;
    message.text(1, piece.text);
    message.real(2, piece.score);
    message.integer(3, static_cast<std::int64_t>(piece.type));
    model.message(1, message);
  }
  Message trainer;
  trainer.integer(3, 2);  // model_type: BPE
  trainer.integer(4, vocab_size);
  trainer.integer(35, 1);  // byte_fallback
  trainer.integer(40, kUnknown);
  trainer.integer(41, kBos);
  trainer.integer(42, kEos);
  trainer.integer(43, -1);  // no padding token
  model.message(2, trainer);
  Message normalizer;
  normalizer.text(1, "identity");
  normalizer.integer(3, 1);  // add_dummy_prefix
  normalizer.integer(4, 0);  // remove_extra_whitespaces
  normalizer.integer(5, 1);  // escape_whitespaces
  model.message(3, normalizer);
  return model.bytes();
}

}  // namespace sinkscope
