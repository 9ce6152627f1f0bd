#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/checkpoint/safetensors.h"
#include "support.h"
#include "tests/catch.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

/// The message of reading a file of this header and `bytes` zero bytes of data.
std::string problem(const std::string& header, std::size_t bytes = 8) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  write_raw_safetensors(file, header, std::string(bytes, '\0'));
  return message_of(folder.path(), [&] { SafetensorsFile reader(file); });
}

std::string tensor(const std::string& name, const std::string& shape, const std::string& offsets) {
  std::string text = "\"";
  return text.append(name).append("\":{\"dtype\":\"F32\",\"shape\":").append(shape).append(",\"data_offsets\":")
      .append(offsets).append("}");
}

template <class Bits>
std::vector<float> read_bits(const std::string& dtype, const std::vector<Bits>& bits) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  std::string data(bits.size() * sizeof(Bits), '\0');
  std::memcpy(data.data(), bits.data(), data.size());
  write_raw_safetensors(file, "{\"a\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + std::to_string(bits.size()) +
                                  "],\"data_offsets\":[0," + std::to_string(data.size()) + "]}}", data);
  std::vector<float> out(bits.size());
  SafetensorsFile(file).read("a", out);
  return out;
}

}  // namespace

TEST_CASE("tensors, metadata and transposed tensors come back from a file") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  const std::vector<float> a = {1, 2, 3, 4, 5, 6}, b = {7};
  write_safetensors(file, {{"z", {2, 3}, a}, {"t", {3, 2}, a, true}, {"b", {}, b}}, {{"format", "pt"}});
  const SafetensorsFile reader(file);
  CHECK(reader.names() == std::vector<std::string>{"b", "t", "z"});
  CHECK(reader.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK(reader.shape("t") == std::vector<std::int64_t>{3, 2});
  std::vector<float> out(6), one(1);
  reader.read("z", out);
  CHECK(out == a);
  reader.read("t", out);
  CHECK(out == std::vector<float>{1, 4, 2, 5, 3, 6});
  reader.read("b", one);
  CHECK(one == b);
  CHECK(message_of(folder.path(), [&] { reader.shape("y"); }) == "@/x.safetensors: tensor y is missing");
  CHECK(message_of(folder.path(), [&] { reader.read("z", one); }) ==
        "@/x.safetensors: tensor z: shape (2, 3), expected 1 elements");
  const std::string content = read_file(file);
  std::uint64_t length = 0;
  std::memcpy(&length, content.data(), 8);
  CHECK((8 + length) % 64 == 0);
  CHECK(names_in(folder.path()) == std::vector<std::string>{"x.safetensors"});
}

TEST_CASE("half and bfloat16 values are read exactly") {
  // 1, -2, largest, smallest normal, smallest subnormal, -0, infinity (IEEE 754 binary16)
  const std::vector<float> half =
      read_bits<std::uint16_t>("F16", {0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x8000, 0x7c00});
  CHECK(half ==
        std::vector<float>{1.0F, -2.0F, 65504.0F, 0x1p-14F, 0x1p-24F, -0.0F, std::numeric_limits<float>::infinity()});
  CHECK(std::signbit(half[5]));
  CHECK(std::isnan(read_bits<std::uint16_t>("F16", {0x7e00})[0]));
  CHECK(read_bits<std::uint16_t>("BF16", {0x3f80, 0xc049, 0x0001}) ==
        std::vector<float>{1.0F, -3.140625F, std::bit_cast<float>(0x00010000U)});
  CHECK(read_bits<float>("F32", {0.1F}) == std::vector<float>{0.1F});
}

TEST_CASE("a file whose header is wrong is refused with what is wrong") {
  CHECK(problem("{" + tensor("a", "[2]", "[0,8]") + "}").empty());
  CHECK(problem("{" + tensor("a", "[2]", "[0,8]") + "," + tensor("b", "[1]", "[4,8]") + "}") ==
        "@/x.safetensors: tensor b: its data overlap those of a");
  CHECK(problem("{" + tensor("a", "[1]", "[4,8]") + "}") ==
        "@/x.safetensors: tensor a: 4 bytes before its data belong to no tensor");
  CHECK(problem("{" + tensor("a", "[1]", "[0,4]") + "}") == "@/x.safetensors: 4 bytes at the end belong to no tensor");
  CHECK(problem("{" + tensor("a", "[4]", "[0,16]") + "}") ==
        "@/x.safetensors: tensor a: data_offsets [0, 16) lie outside the file's 8 bytes of data (truncated?)");
  CHECK(problem("{" + tensor("a", "[2]", "[8,0]") + "}") ==
        "@/x.safetensors: tensor a: data_offsets [8, 0) run backwards");
  CHECK(problem("{" + tensor("a", "[3]", "[0,8]") + "}") ==
        "@/x.safetensors: tensor a: data_offsets [0, 8) do not fit dtype F32 and shape (3)");
  CHECK(problem("{" + tensor("a", "[4611686018427387904,4]", "[0,8]") + "}") ==
        "@/x.safetensors: tensor a: data_offsets [0, 8) do not fit dtype F32 and shape (4611686018427387904, 4)");
  CHECK(problem("{" + tensor("a", "[-2]", "[0,8]") + "}") ==
        "@/x.safetensors: header: tensor a: shape: expected integers of at least 0, found a negative integer");
  CHECK(problem("{" + tensor("a", "[2]", "[0,8]") + "," + tensor("a", "[2]", "[0,8]") + "}") ==
        "@/x.safetensors: header: tensor a is listed twice");
  CHECK(problem("{\"a\":{\"dtype\":\"X\",\"shape\":[2],\"data_offsets\":[0,8]}}") ==
        "@/x.safetensors: tensor a: unknown dtype \"X\"");
  CHECK(problem("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}") ==
        "@/x.safetensors: header: tensor a: no \"data_offsets\"");
  CHECK(problem("{\"a\":1}") == "@/x.safetensors: header: \"a\": expected an object, found an integer");
  CHECK(problem("{\"a\":") == "@/x.safetensors: header: is no valid JSON at byte 6");
  CHECK(problem("") == "@/x.safetensors: header: is no valid JSON at byte 1");
  CHECK(problem(std::string(1000000, '[')) == "@/x.safetensors: header: expected an object, found a list");
  CHECK(problem("{\"a\":{\"dtype\":\"F32\",\"shape\":" + std::string(1000000, '[')) ==
        "@/x.safetensors: header: tensor a: shape: expected integers of at least 0, found a list");
}

TEST_CASE("a file that is cut or claims a huge header is refused") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  const auto open = [&] { SafetensorsFile reader(file); };
  CHECK(message_of(folder.path(), open) == "@/x.safetensors: cannot open: No such file or directory");
  write_file(file, "");
  CHECK(message_of(folder.path(), open) == "@/x.safetensors: truncated: 0 bytes, a safetensors file has at least 8");
  write_file(file, std::string(8, '\xff'));
  CHECK(message_of(folder.path(), open) ==
        "@/x.safetensors: header length 18446744073709551615, expected at most 100000000");
  write_file(file, std::string("\x10\0\0\0\0\0\0\0{}", 10));
  CHECK(message_of(folder.path(), open) == "@/x.safetensors: truncated: header length 16, but only 2 bytes follow");
  CHECK(message_of(folder.path(), [&] { SafetensorsFile reader("/dev/null"); }) == "/dev/null: is not a regular file");
}

TEST_CASE("a full disk leaves the file as it was") {
  const TemporaryFolder folder;
  const auto file = folder.path() / "x.safetensors";
  const std::vector<float> a(1000, 1.0F);
  write_file(file, "before");
  std::string message;
  {
    const FileSizeLimit full(100);
    message = message_of(folder.path(), [&] { write_safetensors(file, {{"a", {1000}, a}}, {}); });
  }
  CHECK(message == "@/x.safetensors.partial: cannot write: File too large");
  CHECK(read_file(file) == "before");
  CHECK(names_in(folder.path()) == std::vector<std::string>{"x.safetensors"});
  CHECK(message_of(folder.path(), [&] { write_safetensors("/dev/full", {{"a", {1000}, a}}, {}); }) ==
        "/dev/full: exists and is not a regular file");
}
