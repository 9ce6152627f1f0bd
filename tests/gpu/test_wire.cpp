// Gradients on their way between GPUs: rounding to bf16 and sums in rank order, against the same on the host.
#include "kernels/cuda/wire.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/tensor.h"
#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

TEST_CASE("what travels in bf16 is rounded, and added up in rank order, as on the host at every size and place",
          "[sanitize]") {
  Backends both(DType::bf16);
  const auto stream = dynamic_cast<CudaOps&>(both.gpu()).stream();
  Random random(41);
  for (const std::int64_t n : {1, 7, 8, 9, 1000, 4099})
    for (const std::int64_t shift : {0, 1, 8})  // elements from an aligned place
      for (const int ranks : {1, 2, 3})
        for (int mine = 0; mine < ranks; ++mine) {
          INFO(n << " elements, shift " << shift << ", rank " << mine << " of " << ranks);
          const auto own = both.single({n + shift}, random.normals(n + shift, 100.0));
          const Tensor x = own.gpu.rows(shift, n);
          const Tensor sent = both.device_array({n + shift}, DType::bf16).rows(shift, n);
          both.spoil(sent);
          cuda::to_wire(stream, sent.data, x.as<float>(), n);
          const Bytes bytes = both.bytes(sent);
          const auto host = [&](std::int64_t i) { return static_cast<float>(own.cpu[shift + i]); };
          for (std::int64_t i = 0; i < n; ++i) {
            std::uint16_t found = 0;
            std::memcpy(&found, bytes.data() + 2 * i, sizeof found);
            if (found != to_bf16(host(i))) FAIL("element " << i << " is rounded otherwise");
          }
          for (const DType wire : {DType::bf16, DType::f32})
            for (const bool apart : {false, true}) {
              // The others send this rank's values times 3, times 5, in rows that are a little longer.
              const std::int64_t pitch = n + (apart ? 8 : 3);
              const Tensor received = both.device_array({ranks * pitch + shift}, wire).rows(shift, ranks * pitch);
              both.spoil(received);
              std::vector<std::vector<float>> addends(static_cast<std::size_t>(ranks));
              for (int rank = 0; rank < ranks; ++rank) {
                std::vector<float>& row = addends[static_cast<std::size_t>(rank)];
                std::vector<std::uint16_t> rounded;
                for (std::int64_t i = 0; i < n; ++i) {
                  row.push_back(host(i) * static_cast<float>(rank == mine ? 1 : 3 + 2 * rank));
                  if (rank == mine || wire == DType::f32) continue;
                  rounded.push_back(to_bf16(row.back()));
                  row.back() = from_bf16(rounded.back());
                }
                if (rank == mine) continue;
                both.gpu().copy_from_host(received.rows(rank * pitch, n),
                                          wire == DType::bf16 ? static_cast<const void*>(rounded.data()) : row.data());
              }
              const auto there = both.single({n + shift}, own.cpu.doubles()),
                         elsewhere = both.single_output({n + shift});
              const Tensor& sum = apart ? elsewhere.gpu : there.gpu;
              cuda::add_in_rank_order(
                  stream, sum.rows(shift, n).as<float>(), there.gpu.rows(shift, n).as<float>(),
                  {.data = received.data, .dtype = wire, .pitch = pitch, .ranks = ranks, .mine = mine}, n);
              const Doubles sums = both.read(sum), kept = both.read(there.gpu);
              for (std::int64_t i = 0; i < n; ++i) {
                float expected = addends[0][static_cast<std::size_t>(i)];
                for (std::size_t rank = 1; rank < addends.size(); ++rank)
                  expected += addends[rank][static_cast<std::size_t>(i)];
                if (static_cast<float>(sums[static_cast<std::size_t>(shift + i)]) != expected)
                  FAIL("element " << i << " is added up otherwise");
              }
              // What lies before is left alone, and addends elsewhere are.
              for (std::int64_t i = 0; i < (apart ? shift + n : shift); ++i)
                CHECK(static_cast<float>(kept[static_cast<std::size_t>(i)]) == static_cast<float>(own.cpu[i]));
            }
          const auto back = both.single_output({n + shift});
          cuda::from_wire(stream, back.gpu.as<float>() + shift, sent.data, n);
          const Doubles widened = both.read(back.gpu);
          for (std::int64_t i = 0; i < n; ++i)
            if (static_cast<float>(widened[static_cast<std::size_t>(shift + i)]) != from_bf16(to_bf16(host(i))))
              FAIL("element " << i << " comes back otherwise");
        }
}

TEST_CASE(
    "parts of an array are packed into a row for each other rank and unpacked from all, and nothing else is written",
    "[sanitize]") {
  Backends both(DType::bf16);
  const auto stream = dynamic_cast<CudaOps&>(both.gpu()).stream();
  Random random(43);
  for (const DType wire : {DType::f32, DType::bf16})
    for (const int ranks : {1, 2, 4})
      for (const std::int64_t part : {1, 7, 8, 64, 4104})
        // Missing of the last part; with two ranks less than half is there.
        for (const std::int64_t missing : {std::int64_t{0}, part / 2 + 1})
          for (const std::int64_t shift : {0, 1, 8}) {
            const std::int64_t n = std::max<std::int64_t>(ranks * part - missing, 1),
                               pitch = part + (shift == 1 ? 3 : 8);
            const int mine = ranks - 1;
            INFO(name_of(wire) << ", " << ranks << " ranks, part " << part << " of " << n << ", shift " << shift);
            const auto x = both.single({n + shift}, random.normals(n + shift, 100.0));
            const Tensor rows = both.device_array({ranks * pitch + shift}, wire).rows(shift, ranks * pitch);
            both.spoil(rows);
            const Bytes before = both.bytes(rows);
            cuda::pack_parts(stream, {.data = rows.data, .dtype = wire, .pitch = pitch, .ranks = ranks, .mine = mine},
                             x.gpu.rows(shift, n).as<float>(), n, part);
            const Bytes after = both.bytes(rows);
            const std::size_t size = size_of(wire);
            for (int rank = 0; rank < ranks; ++rank)
              for (std::int64_t i = 0; i < pitch; ++i) {
                const std::size_t at = static_cast<std::size_t>(rank * pitch + i) * size;
                std::vector<std::byte> expected(before.begin() + static_cast<std::ptrdiff_t>(at),
                                                before.begin() + static_cast<std::ptrdiff_t>(at + size));
                if (rank != mine && i < part && rank * part + i < n) {
                  const float value = x.cpu[shift + rank * part + i];
                  const std::uint16_t rounded = to_bf16(value);
                  std::memcpy(expected.data(), wire == DType::bf16 ? static_cast<const void*>(&rounded) : &value, size);
                }
                if (std::memcmp(expected.data(), after.data() + at, size) != 0)
                  FAIL("row " << rank << ", element " << i);
              }
            const Tensor back = both.device_array({n + shift + 8}, wire);
            both.spoil(back);
            const Bytes spoilt = both.bytes(back);
            cuda::unpack_parts(stream, back.rows(shift, n).data, n, part,
                               {.data = rows.data, .dtype = wire, .pitch = pitch, .ranks = ranks, .mine = mine});
            const Bytes unpacked = both.bytes(back);
            for (std::int64_t i = 0; i < n + shift + 8; ++i) {
              const std::int64_t element = i - shift, rank = element / part;
              const bool inside = element >= 0 && element < n;
              const std::byte* expected =
                  inside ? after.data() + static_cast<std::size_t>(rank * pitch + element % part) * size
                         : spoilt.data() + static_cast<std::size_t>(i) * size;
              if (std::memcmp(expected, unpacked.data() + static_cast<std::size_t>(i) * size, size) != 0)
                FAIL("unpacked element " << element);
            }
          }
}
