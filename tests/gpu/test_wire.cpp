// Gradients on their way between GPUs: rounding to bf16 and sums in rank order, against the same on the host.
#include "kernels/cuda/wire.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/tensor.h"
#include "tests/catch.h"
#include "tests/gpu/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

TEST_CASE("what travels in bf16 is rounded, and added up in rank order, as on the host at every size and place", "[sanitize]") {
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
          const std::vector<std::byte> bytes = both.bytes(sent);
          const auto host = [&](std::int64_t i) { return static_cast<float>(own.cpu[shift + i]); };
          for (std::int64_t i = 0; i < n; ++i) {
            std::uint16_t found = 0;
            std::memcpy(&found, bytes.data() + 2 * i, sizeof found);
            if (found != to_bf16(host(i))) FAIL("element " << i << " is rounded otherwise");
          }
          // The others send this rank's values times 3, times 5.
          const Tensor received = both.device_array({ranks * n + shift}, DType::bf16).rows(shift, (ranks - 1) * n);
          std::vector<std::uint16_t> addends;
          for (int other = 1; other < ranks; ++other)
            for (std::int64_t i = 0; i < n; ++i) addends.push_back(to_bf16(host(i) * static_cast<float>(1 + 2 * other)));
          if (!addends.empty()) both.gpu().copy_from_host(received, addends.data());
          cuda::add_in_rank_order(stream, x.as<float>(), received.data, n, ranks, mine);
          const Doubles sums = both.read(own.gpu);
          for (std::int64_t i = 0; i < n; ++i) {
            std::size_t row = 0;
            const auto addend = [&](int rank) {
              return rank == mine ? host(i) : from_bf16(addends[row++ * static_cast<std::size_t>(n) + static_cast<std::size_t>(i)]);
            };
            float sum = addend(0);
            for (int rank = 1; rank < ranks; ++rank) sum += addend(rank);
            if (static_cast<float>(sums[static_cast<std::size_t>(shift + i)]) != sum) FAIL("element " << i << " is added up otherwise");
          }
          for (std::int64_t i = 0; i < shift; ++i)  // what lies before is left alone
            CHECK(static_cast<float>(sums[static_cast<std::size_t>(i)]) == static_cast<float>(own.cpu[i]));
          const auto back = both.single_output({n + shift});
          cuda::from_wire(stream, back.gpu.as<float>() + shift, sent.data, n);
          const Doubles widened = both.read(back.gpu);
          for (std::int64_t i = 0; i < n; ++i)
            if (static_cast<float>(widened[static_cast<std::size_t>(shift + i)]) != from_bf16(to_bf16(host(i)))) FAIL("element " << i << " comes back otherwise");
        }
}
