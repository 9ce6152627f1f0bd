// Gradient norm, clipping, AdamW and the statistics of rows.
#include <algorithm>
#include <array>
#include <numeric>

#include "tests/catch.h"
#include "tests/kernels/support.h"

using namespace sinkscope;
using namespace sinkscope::test;

namespace {

// Segments that leave gaps, one empty, one longer than the parts that work is cut into.
const std::vector<Segment> kSegments = {{3, 40000, true}, {40003, 0, true}, {40010, 17, false}, {40100, 1, true}};
constexpr std::int64_t kSize = 40200;

bool inside(std::int64_t i) {
  return std::any_of(kSegments.begin(), kSegments.end(),
                     [i](const Segment& s) { return i >= s.begin && i < s.begin + s.size; });
}

std::size_t place(std::int64_t i) { return static_cast<std::size_t>(i); }

}  // namespace

TEST_CASE("sum_of_squares sums each segment, whatever the number of threads") {
  Random random(51);
  Floats x({kSize}, random.normals(kSize));
  for (std::int64_t i = 0; i < kSize; ++i)
    if (!inside(i)) x[i] = Floats::poison();  // gaps are not read
  Array<double> one({4}), two({4});
  make_cpu_ops(1)->sum_of_squares({.x = x, .segments = kSegments, .sums = one});
  make_cpu_ops(2)->sum_of_squares({.x = x, .segments = kSegments, .sums = two});
  CHECK(one.same_bits(two));
  for (std::size_t s = 0; s < kSegments.size(); ++s) {
    double sum = 0;
    for (std::int64_t i = 0; i < kSegments[s].size; ++i) {
      const auto value = static_cast<double>(x[kSegments[s].begin + i]);
      sum += value * value;
    }
    CHECK(one[static_cast<std::int64_t>(s)] == Approx(sum).epsilon(1e-13));
  }
}

TEST_CASE("clip_scale bounds the norm and marks one that is not finite") {
  const auto ops = make_cpu_ops(1);
  Floats out({2});
  const Array<double> sums({2}, {9, 16});
  struct Case {
    double max_norm, scale;
  };
  for (const auto [max_norm, scale] : {Case{1, 0.2}, Case{5, 1}, Case{6, 1}, Case{0, 1}, Case{-1, 1}}) {
    out.spoil();
    ops->clip_scale({.sums = sums, .max_norm = max_norm, .out = out});
    CHECK(out[0] == 5.0F);
    CHECK(static_cast<double>(out[1]) == Approx(scale));
  }
  for (const double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    const Array<double> spoiled({2}, {1, bad});
    ops->clip_scale({.sums = spoiled, .max_norm = 0, .out = out});
    CHECK_FALSE(std::isfinite(out[0]));
    CHECK(std::isnan(out[1]));
  }
}

TEST_CASE("adamw_step follows the paper over several steps and leaves gaps alone") {
  Random random(52);
  const auto ops = make_cpu_ops(2);
  const double lr = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1, scale = 0.25;
  Doubles p = random.normals(kSize), m = Doubles(place(kSize), 0.0), v = m;
  Floats param({kSize}, p), first({kSize}, m), second({kSize}, v), grad({kSize});
  const Floats clip({2}, {4.0, scale});
  const Floats before({kSize}, p);
  for (std::int64_t step = 1; step <= 4; ++step) {
    const Doubles g = random.normals(kSize, 1e-2);
    grad.set(g);
    ops->adamw_step({.param = param, .grad = grad, .m = first, .v = second, .segments = kSegments, .clip = clip,
                     .lr = lr, .beta1 = beta1, .beta2 = beta2, .eps = eps, .weight_decay = decay, .step = step});
    for (const Segment& segment : kSegments)
      for (std::int64_t i = segment.begin; i < segment.begin + segment.size; ++i) {
        const double scaled = scale * g[place(i)];
        m[place(i)] = beta1 * m[place(i)] + (1 - beta1) * scaled;
        v[place(i)] = beta2 * v[place(i)] + (1 - beta2) * scaled * scaled;
        const double mhat = m[place(i)] / (1 - std::pow(beta1, step));
        const double vhat = v[place(i)] / (1 - std::pow(beta2, step));
        p[place(i)] -= lr * (mhat / (std::sqrt(vhat) + eps) + (segment.decay ? decay : 0.0) * p[place(i)]);
      }
  }
  CHECK(relative_error(param, p) < kSingle);
  CHECK(relative_error(first, m) < kSingle);
  CHECK(relative_error(second, v) < kSingle);
  for (std::int64_t i = 0; i < kSize; ++i)
    if (!inside(i)) REQUIRE(param[i] == before[i]);
}

TEST_CASE("adamw_step does nothing when the scale is not finite") {
  const auto ops = make_cpu_ops(1);
  const std::vector<Segment> all = {{0, 3, true}};
  Floats param({3}, {1, 2, 3}), grad({3}, {1, 1, 1}), first({3}, {4, 5, 6}), second({3}, {7, 8, 9});
  Floats clip({2});
  clip[0] = std::numeric_limits<float>::infinity();
  ops->adamw_step({.param = param, .grad = grad, .m = first, .v = second, .segments = all, .clip = clip, .lr = 1,
                   .weight_decay = 1, .step = 1});
  CHECK(param.doubles() == Doubles{1, 2, 3});
  CHECK(first.doubles() == Doubles{4, 5, 6});
  CHECK(second.doubles() == Doubles{7, 8, 9});
}

TEST_CASE("Segments outside the array are named") {
  const auto ops = make_cpu_ops(1);
  Floats x({10}, Doubles(10, 1.0));
  Array<double> sums({2});
  for (const Segment& bad : {Segment{8, 3, false}, Segment{-1, 2, false}, Segment{2, -1, false},
                             Segment{1, std::numeric_limits<std::int64_t>::max(), false}}) {
    const std::vector<Segment> segments = {{0, 1, false}, bad};
    const std::string message =
        message_of<std::invalid_argument>([&] { ops->sum_of_squares({.x = x, .segments = segments, .sums = sums}); });
    CHECK(message.find("sum_of_squares: segments holds [") == 0);
    CHECK(message.find("at index 1, outside an array of 10") != std::string::npos);
  }
}

TEST_CASE("sink scores are summed over sequences, each thresholded by itself") {
  const auto ops = make_cpu_ops(2);
  Random random(54);
  for (const auto& [L, B, H, K] : std::vector<std::array<std::int64_t, 4>>{{1, 1, 1, 1}, {3, 5, 2, 4}, {4, 70, 3, 8}}) {
    const Doubles sink = random.uniforms(L * B * H * K);
    const Doubles before = random.normals(L * H * K);
    Doubles scores = before, above = before;
    for (std::int64_t l = 0; l < L; ++l)
      for (std::int64_t b = 0; b < B; ++b)
        for (std::int64_t i = 0; i < H * K; ++i) {
          const auto value = static_cast<float>(sink[place((l * B + b) * H * K + i)]);
          scores[place(l * H * K + i)] += static_cast<double>(value);
          above[place(l * H * K + i)] += value > 0.3F ? 1 : 0;
        }
    Array<double> out({L, H, K}, before), counts({L, H, K}, before);
    ops->sink_sums({.sink = Floats({L, B, H, K}, sink), .threshold = 0.3F, .scores = out, .above = counts});
    CHECK(out.doubles() == scores);
    CHECK(counts.doubles() == above);
    out.set(before);
    ops->sink_sums({.sink = Floats({L, B, H, K}, sink), .threshold = 0.3F, .scores = out, .above = {}});
    CHECK(out.doubles() == scores);
  }
}

TEST_CASE("row norms and their ratios are summed over sequences, each averaged by itself") {
  const auto ops = make_cpu_ops(2);
  Random random(55);
  for (const auto& [R, B, T, K] :
       std::vector<std::array<std::int64_t, 4>>{{1, 1, 2, 1}, {2, 3, 4, 4}, {5, 4, 33, 8}, {9, 40, 200, 3}})
    for (const bool ratios : {false, true}) {
      const Doubles norms = random.uniforms(R * B * T),
                    over = plus(random.uniforms(R * B * T), Doubles(norms.size(), 0.5));
      Doubles values = norms;
      for (std::size_t i = 0; ratios && i < values.size(); ++i) values[i] /= over[i];
      Doubles first(place(R * K), 1.0), rest(place(R), 2.0), ratio(place(R), 3.0);
      for (std::int64_t r = 0; r < R; ++r)
        for (std::int64_t b = 0; b < B; ++b) {
          const double* row = values.data() + (r * B + b) * T;
          for (std::int64_t p = 0; p < K; ++p) first[place(r * K + p)] += row[p];
          rest[place(r)] += std::accumulate(row + K, row + T, 0.0) / static_cast<double>(T - K);
          ratio[place(r)] += row[0] / (std::accumulate(row + 1, row + T, 0.0) / static_cast<double>(T - 1));
        }
      const Floats top({R, B, T}, norms), bottom({R, B, T}, over);
      Array<double> firsts({R, K}, Doubles(place(R * K), 1.0)), rests({R}, Doubles(place(R), 2.0)),
          quotients({R}, Doubles(place(R), 3.0));
      ops->norm_sums({.norms = top, .over = ratios ? bottom.view() : Tensor{}, .first = firsts, .rest = rests,
                      .ratio = quotients});
      CHECK(relative_error(firsts.doubles(), first) < kSingle);
      CHECK(relative_error(quotients.doubles(), ratio) < kSingle);
      if (K < T) CHECK(relative_error(rests.doubles(), rest) < kSingle);
      if (K == T)  // no position is left
        for (const double value : rests.doubles()) CHECK(std::isnan(value));
    }
}

TEST_CASE("row_l2 gives the norms of the vectors of each row, one vector after the other") {
  const auto ops = make_cpu_ops(2);
  Random random(53);
  for (const auto& [columns, vectors, first, selected] : std::vector<std::array<std::int64_t, 4>>{
           {1, 1, 0, 1}, {7, 5, 2, 3}, {128, 3, 0, 3}, {1000, 2, 1, 1}, {4, 2, 2, 0}}) {
    const std::int64_t rows = 37;
    const Floats x({rows, vectors, columns}, random.normals(rows * vectors * columns));
    Floats out({selected, rows});
    ops->row_l2({.x = x, .first = static_cast<int>(first), .out = out});
    Doubles reference;
    for (std::int64_t j = first; j < first + selected; ++j)
      for (std::int64_t n = 0; n < rows; ++n) {
        double squares = 0;
        for (std::int64_t c = 0; c < columns; ++c)
          squares += std::pow(static_cast<double>(x[(n * vectors + j) * columns + c]), 2);
        reference.push_back(std::sqrt(squares));
      }
    CHECK(relative_error(out, reference) < kSingle);
  }
}

TEST_CASE("direction_sums adds unit vectors of one position, and leaves out those of length 0") {
  const auto ops = make_cpu_ops(2);
  Random random(56);
  for (const auto& [B, T, C, t] :
       std::vector<std::array<std::int64_t, 4>>{{1, 1, 1, 0}, {3, 4, 7, 2}, {70, 3, 100, 0}, {2, 5, 300, 4}}) {
    Floats x({B, T, C}, random.normals(B * T * C, 5.0));
    const std::int64_t zero = B > 1 ? 1 : B;  // this sequence's vector has no direction
    for (std::int64_t c = 0; zero < B && c < C; ++c) x[(zero * T + t) * C + c] = 0.0F;
    Doubles sum(place(C), 0.25);
    for (std::int64_t b = 0; b < B; ++b) {
      double squares = 0;
      for (std::int64_t c = 0; c < C; ++c) squares += std::pow(static_cast<double>(x[(b * T + t) * C + c]), 2);
      for (std::int64_t c = 0; b != zero && c < C; ++c)
        sum[place(c)] += static_cast<double>(x[(b * T + t) * C + c]) / std::sqrt(squares);
    }
    Array<double> found({C}, Doubles(place(C), 0.25)), count({1}, {2.0});
    ops->direction_sums({.x = x, .position = t, .sum = found, .count = count});
    CHECK(relative_error(found.doubles(), sum) < 1e-14);
    CHECK(count[0] == 2.0 + static_cast<double>(B - (zero < B ? 1 : 0)));
  }
}

namespace {

struct Magnitudes {
  double max, row, column, median;
};
Magnitudes magnitudes_of(Ops& ops, const Floats& x) {
  Array<double> out({4});
  ops.abs_statistics({.x = x, .out = out});
  return {.max = out[0], .row = out[1], .column = out[2], .median = out[3]};
}

}  // namespace

TEST_CASE("abs_statistics finds the maximum, its first place and the lower median") {
  const auto ops = make_cpu_ops(2);
  Floats x({2, 3}, {1, -5, 2, 0, 5, -3});
  Magnitudes found = magnitudes_of(*ops, x);
  CHECK(found.max == 5.0);
  CHECK(found.row == 0);
  CHECK(found.column == 1);
  CHECK(found.median == 2.0);  // of 0 1 2 3 5 5
  const Floats odd({1, 3}, {-7, 1, 3});
  CHECK(magnitudes_of(*ops, odd).median == 3.0);
  Random random(54);
  Floats large({117, 33}, random.normals(117 * 33));
  Doubles sorted = large.doubles();
  for (double& value : sorted) value = std::fabs(value);
  std::sort(sorted.begin(), sorted.end());
  found = magnitudes_of(*ops, large);
  CHECK(found.max == sorted.back());
  CHECK(found.median == sorted[(sorted.size() - 1) / 2]);
  CHECK(static_cast<double>(std::fabs(large[static_cast<std::int64_t>(found.row * 33 + found.column)])) == found.max);
  large[700] = Floats::poison();
  CHECK(std::isnan(magnitudes_of(*ops, large).max));  // a NaN is never hidden
}

TEST_CASE("abs_statistics is the same in one part and in several") {
  Random random(55);
  constexpr std::int64_t kRows = 300, kColumns = 101;
  Floats normal({kRows, kColumns}, random.normals(kRows * kColumns));
  Floats equal({kRows, kColumns}, Doubles(kRows * kColumns, -2.5));
  Floats tied({kRows, kColumns}, Doubles(kRows * kColumns, 0.0));  // the maximum in every part, infinite
  for (const std::int64_t place : {std::int64_t{9000}, std::int64_t{12000}, std::int64_t{29000}})
    tied[place] = -std::numeric_limits<float>::infinity();
  Floats spread({kRows, kColumns}, random.normals(kRows * kColumns));  // over many orders of magnitude
  for (std::int64_t i = 0; i < spread.size(); ++i) spread[i] *= std::ldexp(1.0F, static_cast<int>(i % 200) - 100);
  for (const Floats* x : {&normal, &equal, &tied, &spread}) {
    Doubles sorted = x->doubles();
    for (double& value : sorted) value = std::fabs(value);
    const auto first = std::max_element(sorted.begin(), sorted.end()) - sorted.begin();
    std::sort(sorted.begin(), sorted.end());
    for (const int threads : {1, 2, 3, 5}) {
      const Magnitudes found = magnitudes_of(*make_cpu_ops(threads), *x);
      CHECK(found.max == sorted.back());
      CHECK(found.row * kColumns + found.column == static_cast<double>(first));
      CHECK(found.median == sorted[(sorted.size() - 1) / 2]);
    }
  }
}

TEST_CASE("Buffers are aligned, copies and zero reach every byte") {
  const auto ops = make_cpu_ops(2);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{257}, std::size_t{100000}}) {
    const Buffer buffer = ops->allocate(bytes);
    CHECK(reinterpret_cast<std::uintptr_t>(buffer.get()) % 256 == 0);
  }
  const std::int64_t size = 20001;
  Random random(55);
  const Floats from({size}, random.normals(size));
  const Buffer memory = ops->allocate(static_cast<std::size_t>(size) * sizeof(float));
  const Tensor device(memory.get(), DType::f32, {size});
  Floats back({size});
  ops->copy_from_host(device, from.view().data);
  ops->copy_to_host(back.view().data, device);
  CHECK(back.same_bits(from));
  back.spoil();
  ops->copy(back, device);
  CHECK(back.same_bits(from));
  ops->zero(device);
  ops->copy_to_host(back.view().data, device);
  CHECK(back.doubles() == Doubles(place(size), 0.0));
  const Floats other({size + 1}, Doubles(place(size + 1), 0.0));
  CHECK(message_of<std::invalid_argument>([&] { ops->copy(back, other); }).find("copy: dst is ") == 0);
}
