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

/// An array that is dealt to the ranks in parts: rank r has its elements [r * part, (r + 1) * part), as far as there
/// are that many.
struct Stretch {
  Tensor x;               // (n)
  std::int64_t part = 0;
  /// (elements of this rank) of x's dtype, where the rank keeps its own; absent: in their place in x.
  Tensor own = {};

  std::int64_t begin_of(int rank) const;
  std::int64_t size_of(int rank) const;
  Tensor of(int rank) const { return x.rows(begin_of(rank), size_of(rank)); }
  Tensor kept(int rank) const { return own ? own : of(rank); }
};

/// Elements that a part takes in a row of what copy engines carry: whole lines of memory.
std::int64_t line_elements(std::int64_t part);

/// Of what copy engines carry between GPUs of one host, the most bytes at a time: in start_reduce() sent and received,
/// and in start_share_beside(). 0: NCCL's kernels do it.
struct CarriedBytes {
  std::size_t reduced = 0, shared = 0;
};

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
  /// Sums and shares are of this process alone, and calls for them do nothing. Not collective.
  virtual bool alone() const { return false; }

  // What is started begins once what was enqueued on the Ops is done; other operations go on meanwhile, and must leave
  // the tensor alone until join() or finish().

  /// In place, x (n) f32 or f64 becomes the sum of the ranks' x. With `wire` bf16, for f32 alone, addends are rounded
  /// to bf16 on their way to the rank that adds them up, in f32, in rank order and its own as they are; its sums go to
  /// all rounded.
  virtual void start_all_reduce(const Tensor& x, DType wire) = 0;
  /// What the rank keeps of the stretches, f32 or f64, becomes the ranks' sum of its elements of their x; x's are left
  /// without a meaning. On a `wire` of bf16 as in start_all_reduce(), and sums are not rounded.
  virtual void start_reduce(std::span<const Stretch> stretches, DType wire) = 0;
  /// What each rank keeps of the stretches comes to its elements of every rank's x; begins and ends as sums do.
  virtual void start_share(std::span<const Stretch> stretches) = 0;
  /// The same, where the device computes meanwhile: by a way that leaves it its multiprocessors if there is one, though
  /// that may take longer by itself. What the call before it started is joined.
  virtual void start_share_beside(std::span<const Stretch> stretches) { start_share(stretches); }
  /// Whether there is such a way. Not collective.
  virtual bool shares_beside() const { return false; }
  /// Stands for all that was started until now. Not collective.
  virtual std::int64_t mark() = 0;
  /// Operations that are enqueued on the Ops from now on see what the mark stands for; nothing waits on the host.
  virtual void join(std::int64_t mark) = 0;
  void join() { join(mark()); }
  /// The same of all that was started, and waits until it has arrived; operations see what becomes of it, as after
  /// join().
  virtual void finish() = 0;
  void all_reduce(const Tensor& x, DType wire = DType::f32) {
    start_all_reduce(x, wire);
    finish();
  }
  void share(const Stretch& stretch) {
    start_share({&stretch, 1});
    finish();
  }
  /// x (n) of `root` becomes that of every rank.
  virtual void broadcast(const Tensor& x, int root) = 0;

  /// The bytes of every rank, as many on each, in rank order. On the host; comes after what was
  /// started, and waits for the Ops where that does.
  virtual std::vector<std::byte> gather(std::span<const std::byte> mine) = 0;

  // Built on gather(): on the host, in rank order.
  void sum(std::span<double> values);
  void sum_and_max(std::span<double> sums, std::span<double> largest);  // in one message; NaN is larger than all
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

/// Throw std::invalid_argument unless x is f32, or f64 on a wire that is f32; unless x has one dimension, the parts of
/// all ranks cover it, and what this one keeps of it is as many elements alike.
void check_summable(const char* call, const Tensor& x, DType wire);
void check_stretch(const char* call, const Stretch& stretch, int rank, int size);

/// Of one process: every sum is its own.
class OneProcess final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string description() const override { return "one process"; }
  bool alone() const override { return true; }
  void start_all_reduce(const Tensor& x, DType wire) override { check_summable("all_reduce", x, wire); }
  void start_reduce(std::span<const Stretch> stretches, DType wire) override {
    for (const Stretch& stretch : stretches) {
      check_summable("reduce", stretch.x, wire);
      check_alone("reduce", stretch);
    }
  }
  std::int64_t mark() override { return 0; }
  void join(std::int64_t) override {}
  void finish() override {}
  void broadcast(const Tensor&, int) override {}
  void start_share(std::span<const Stretch> stretches) override {
    for (const Stretch& stretch : stretches) check_alone("share", stretch);
  }
  std::vector<std::byte> gather(std::span<const std::byte> mine) override { return {mine.begin(), mine.end()}; }

 private:
  /// There is nobody to deal to: all stays in its place.
  static void check_alone(const char* call, const Stretch& stretch);
};

}  // namespace sinkscope
