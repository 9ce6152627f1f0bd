// What the ranks of a run tell one another: sums of gradients and of numbers, tensors of one rank, stop signals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace sinkscope {

/// Every member function but rank(), size() and description() is collective: all ranks call it, in the same order and
/// with arrays of the same size. Sums are the same to the bit on every rank, and between two runs on as many ranks.
/// Tensors lie where the Ops computes that the communicator was made for. A rank that is gone or hangs does not make
/// the others wait for ever: the World ends them. Functions throw std::runtime_error naming the call that failed.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// "4 ranks, Open MPI 4.1.4", for logs.
  virtual std::string description() const = 0;
  bool leads() const { return rank() == 0; }

  /// In place, x becomes the sum of the ranks' x (n) f32. Begins once what was enqueued on the Ops is done; other
  /// operations go on meanwhile, and must leave x alone until finish(), after which operations see the sums.
  virtual void start_all_reduce(const Tensor& x) = 0;
  virtual void finish() = 0;
  void all_reduce(const Tensor& x) {
    start_all_reduce(x);
    finish();
  }
  /// x (n) of `root` becomes that of every rank.
  virtual void broadcast(const Tensor& x, int root) = 0;
  /// all (size * n) f32 becomes the ranks' `part` (n), in their order; `part` may be the rank's own place in `all`.
  virtual void all_gather(const Tensor& all, const Tensor& part) = 0;
  /// x (n): rank r's elements [r * part, (r + 1) * part), as far as there are that many, become those of every rank.
  virtual void share_parts(const Tensor& x, std::int64_t part) = 0;
  /// part (n) becomes the rank's place in the sum of the ranks' `all` (size * n) f32; it may lie in its place in `all`,
  /// which is otherwise left as it was.
  virtual void reduce_scatter(const Tensor& part, const Tensor& all) = 0;

  /// The bytes of every rank, as many on each, in rank order. On the host; does not wait for the Ops.
  virtual std::vector<std::byte> gather(std::span<const std::byte> mine) = 0;

  // Built on gather(): on the host, in rank order.
  void sum(std::span<double> values);
  void sum(std::span<float> values);
  void sum(std::span<std::int64_t> values);
  void barrier();
  /// Whether any rank says so.
  bool any(bool mine);
  /// The text of `root` on every rank.
  std::string text_of(int root, const std::string& mine);
  /// What the lowest rank that has something has.
  std::optional<std::string> first(const std::optional<std::string>& mine);
};

/// Ends this process quietly with status 1: another rank tells why.
class ToldElsewhere : public std::exception {
 public:
  const char* what() const noexcept override { return "another rank tells why"; }
};

/// Rank r's elements of x (n) where every rank has `part` of them and the last ones fewer or none.
Tensor part_of(const Tensor& x, std::int64_t part, int rank);

/// Throw std::invalid_argument unless x is f32; unless `all` is size times as large as `part`; unless the parts of all
/// ranks cover x.
void check_summable(const char* call, const Tensor& x);
void check_parts(const char* call, const Tensor& all, const Tensor& part, int size);
void check_share(const char* call, const Tensor& x, std::int64_t part, int size);

/// Of one process: every sum is its own.
class OneProcess final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string description() const override { return "one process"; }
  void start_all_reduce(const Tensor&) override {}
  void finish() override {}
  void broadcast(const Tensor&, int) override {}
  /// Throws std::invalid_argument unless `part` is `all`.
  void all_gather(const Tensor& all, const Tensor& part) override;
  void share_parts(const Tensor& x, std::int64_t part) override { check_share("share_parts", x, part, 1); }
  void reduce_scatter(const Tensor& part, const Tensor& all) override;
  std::vector<std::byte> gather(std::span<const std::byte> mine) override { return {mine.begin(), mine.end()}; }
};

}  // namespace sinkscope
