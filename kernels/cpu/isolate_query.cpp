#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/parallel.h"

namespace sinkscope {

void CpuOps::isolate_query(const IsolateQuery& args) {
  const Check check("isolate_query");
  const AttentionExtents extents = check_isolate_query(check, args, DType::f32);
  const std::int64_t T = extents.length, H = extents.query_heads, G = extents.kv_heads, D = extents.head_dim;
  const std::int64_t p = args.position, row_heads = H + 2 * G, group = H / G;
  const std::int64_t K = args.sink ? args.sink.extent(2) : 0;
  const double scale = 1.0 / std::sqrt(static_cast<double>(D));
  const auto* qkv = args.qkv.as<float>();
  auto* out = args.out.as<float>();
  auto* lse = args.lse.as<float>();
  auto* sink = args.sink ? args.sink.as<float>() : nullptr;
  const auto* sink_logits = args.sink_logits ? args.sink_logits.as<float>() : nullptr;
  parallel_range(threads_, extents.sequences * H, (K + 1) * D, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t b = i / H, h = i % H;
      const auto row = [&](std::int64_t t, std::int64_t head) { return qkv + ((b * T + t) * row_heads + head) * D; };
      const auto score = [&](std::int64_t k) {
        const float *query = row(p, h), *key = row(k, H + h / group);
        double sum = 0;
        for (std::int64_t d = 0; d < D; ++d) sum += static_cast<double>(query[d]) * static_cast<double>(key[d]);
        return scale * sum;
      };
      const double own = score(p);
      const double logit =
          sink_logits == nullptr ? -std::numeric_limits<double>::infinity() : static_cast<double>(sink_logits[h]);
      const double top = std::max(own, logit);
      const double after = top + std::log(std::exp(own - top) + std::exp(logit - top));
      const double own_weight = std::exp(own - after);
      float& total = lse[i * T + p];
      for (std::int64_t k = 0; k < std::min(K, p + 1); ++k) {
        const double weight = std::exp(score(k) - static_cast<double>(total));
        sink[i * K + k] += static_cast<float>(((k == p ? own_weight : 0.0) - weight) / static_cast<double>(T - k));
      }
      total = static_cast<float>(after);
      const float* value = row(p, H + G + h / group);
      float* target = out + ((b * T + p) * H + h) * D;
      for (std::int64_t d = 0; d < D; ++d) target[d] = static_cast<float>(own_weight) * value[d];
    }
  });
}

}  // namespace sinkscope
