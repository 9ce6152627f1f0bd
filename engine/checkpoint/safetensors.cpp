#include "engine/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string_view>

#include "engine/checkpoint/safetensors_header.h"
#include "engine/files/replacement.h"
#include "engine/files/system_error.h"

namespace sinkscope {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr std::size_t kAlignment = 64;
constexpr std::int64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's own limit
constexpr std::size_t kChunkElements = std::size_t{1} << 18;

void check_entry(const SafetensorsEntry& entry) {
  std::size_t elements = 1;
  for (const std::int64_t extent : entry.shape) elements *= static_cast<std::size_t>(extent);
  if (elements != entry.data.size())
    throw std::invalid_argument("tensor " + entry.name + ": " + std::to_string(entry.data.size()) +
                                " elements do not fill the shape " + describe_shape(entry.shape));
  if (entry.transposed && entry.shape.size() != 2)
    throw std::invalid_argument("tensor " + entry.name + ": only matrices can be transposed");
  if (entry.rows.empty()) return;
  const std::int64_t rows = entry.shape.empty() ? 0 : entry.shape[0];
  if (entry.transposed || static_cast<std::int64_t>(entry.rows.size()) != rows ||
      std::any_of(entry.rows.begin(), entry.rows.end(), [&](std::int64_t row) { return row < 0 || row >= rows; }))
    throw std::invalid_argument("tensor " + entry.name + ": an order of " + std::to_string(entry.rows.size()) +
                                " rows does not fit the shape " + describe_shape(entry.shape));
}

void write_reordered(HashedFile& file, const SafetensorsEntry& entry) {
  const std::size_t width = entry.data.size() / entry.rows.size();
  std::vector<float> chunk;
  for (std::size_t i = 0; i < entry.rows.size(); ++i) {
    const auto row = entry.data.subspan(static_cast<std::size_t>(entry.rows[i]) * width, width);
    chunk.insert(chunk.end(), row.begin(), row.end());
    if (chunk.size() < kChunkElements && i + 1 < entry.rows.size()) continue;
    file.write(std::as_bytes(std::span<const float>(chunk)));
    chunk.clear();
  }
}

void write_data(HashedFile& file, const SafetensorsEntry& entry) {
  if (!entry.rows.empty()) {
    write_reordered(file, entry);
    return;
  }
  if (!entry.transposed) {
    file.write(std::as_bytes(entry.data));
    return;
  }
  const auto rows = static_cast<std::size_t>(entry.shape[0]), columns = static_cast<std::size_t>(entry.shape[1]);
  const std::size_t step = std::max<std::size_t>(1, kChunkElements / std::max<std::size_t>(1, columns));
  std::vector<float> chunk;
  for (std::size_t begin = 0; begin < rows; begin += step) {
    const std::size_t count = std::min(step, rows - begin);
    chunk.resize(count * columns);
    for (std::size_t column = 0; column < columns; ++column)
      for (std::size_t row = 0; row < count; ++row)
        chunk[row * columns + column] = entry.data[column * rows + begin + row];
    file.write(std::as_bytes(std::span<const float>(chunk)));
  }
}

/// IEEE 754 half to single precision; subnormals are normalised.
float from_half(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16U;
  std::uint32_t exponent = (half >> 10U) & 31U;
  std::uint32_t fraction = half & 0x3ffU;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13U));
  if (exponent == 0) {
    const float value = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23U) | (fraction << 13U));
}

float from_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }

template <class Convert>
void convert(const std::byte* from, std::span<float> out, Convert&& to_float) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, from + 2 * i, sizeof(bits));
    out[i] = to_float(bits);
  }
}

}  // namespace

std::string describe_shape(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + ")";
}

void write_safetensors(HashedFile& file, const std::vector<SafetensorsEntry>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  SafetensorsHeader header;
  header.metadata = metadata;
  std::vector<std::string> order;
  std::int64_t offset = 0;
  for (const SafetensorsEntry& entry : tensors) {
    check_entry(entry);
    const std::int64_t end = offset + static_cast<std::int64_t>(entry.data.size_bytes());
    if (!header.tensors.emplace(entry.name, SafetensorsHeader::Tensor{"F32", entry.shape, offset, end}).second)
      throw std::invalid_argument("tensor " + entry.name + " is given twice");
    order.push_back(entry.name);
    offset = end;
  }
  std::string text = format_safetensors_header(header, order);
  text.resize((text.size() + 8 + kAlignment - 1) / kAlignment * kAlignment - 8, ' ');
  const std::uint64_t length = text.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  for (const SafetensorsEntry& entry : tensors) write_data(file, entry);
}

void write_safetensors(const std::filesystem::path& file, const std::vector<SafetensorsEntry>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  FileReplacement replacement(file);
  write_safetensors(replacement.file(), tensors, metadata);
  replacement.commit();
}

struct SafetensorsFile::State {
  explicit State(const std::filesystem::path& file) : path(file) {
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw_system_error(file, "open", errno);
    struct stat status = {};
    const int error = ::fstat(descriptor, &status) != 0 ? errno : 0;
    if (error == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
      size = static_cast<std::size_t>(status.st_size);
      void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
      const int map_error = errno;
      ::close(descriptor);
      if (address == MAP_FAILED) throw_system_error(file, "map", map_error);
      bytes = static_cast<const std::byte*>(address);
      return;
    }
    ::close(descriptor);
    if (error != 0) throw_system_error(file, "inspect", error);
    if (!S_ISREG(status.st_mode)) refuse(file, "is not a regular file");
  }
  ~State() {
    if (bytes != nullptr) ::munmap(const_cast<std::byte*>(bytes), size);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  const SafetensorsHeader::Tensor& find(const std::string& name) const {
    const auto found = header.tensors.find(name);
    if (found == header.tensors.end()) refuse(path, "tensor " + name + " is missing");
    return found->second;
  }

  std::filesystem::path path;
  const std::byte* bytes = nullptr;
  std::size_t size = 0;
  const std::byte* data = nullptr;  // after the header
  SafetensorsHeader header;
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file) : state_(std::make_unique<State>(file)) {
  State& state = *state_;
  if (state.size < 8)
    refuse(file, "truncated: " + std::to_string(state.size) + " bytes, a safetensors file has at least 8");
  std::uint64_t length = 0;
  std::memcpy(&length, state.bytes, sizeof(length));
  if (length > static_cast<std::uint64_t>(kMaxHeaderBytes))
    refuse(file, "header length " + std::to_string(length) + ", expected at most " + std::to_string(kMaxHeaderBytes));
  if (length > state.size - 8)
    refuse(file, "truncated: header length " + std::to_string(length) + ", but only " + std::to_string(state.size - 8) +
                     " bytes follow");
  const std::string_view text(reinterpret_cast<const char*>(state.bytes) + 8, static_cast<std::size_t>(length));
  state.header = parse_safetensors_header(text, file.string());
  state.data = state.bytes + 8 + length;
  check_safetensors_header(state.header, static_cast<std::int64_t>(state.size - 8 - length), file.string());
}

SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const std::filesystem::path& SafetensorsFile::path() const { return state_->path; }

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : state_->header.tensors) names.push_back(name);
  return names;
}

bool SafetensorsFile::contains(const std::string& name) const { return state_->header.tensors.count(name) != 0; }

const std::vector<std::int64_t>& SafetensorsFile::shape(const std::string& name) const {
  return state_->find(name).shape;
}

void SafetensorsFile::read(const std::string& name, std::span<float> out) const {
  const SafetensorsHeader::Tensor& tensor = state_->find(name);
  const std::byte* from = state_->data + tensor.begin;
  const bool single = tensor.dtype == "F32";
  if (!single && tensor.dtype != "BF16" && tensor.dtype != "F16")
    refuse(state_->path, "tensor " + name + ": dtype " + tensor.dtype + ", expected F32, BF16 or F16");
  const auto elements = static_cast<std::size_t>(tensor.end - tensor.begin) / (single ? 4 : 2);
  if (elements != out.size())
    refuse(state_->path, "tensor " + name + ": shape " + describe_shape(tensor.shape) + ", expected " +
                             std::to_string(out.size()) + " elements");
  if (elements == 0) return;
  if (single)
    std::memcpy(out.data(), from, out.size_bytes());
  else if (tensor.dtype == "BF16")
    convert(from, out, from_bfloat16);
  else
    convert(from, out, from_half);
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const { return state_->header.metadata; }

}  // namespace sinkscope
