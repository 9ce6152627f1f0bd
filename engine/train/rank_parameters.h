// The parameters that a rank updates, and how its decoder gets all of them: they lie there after each update, at once
// or by the next forward pass, or come section by section in every pass from the ranks that keep them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "engine/comm/communicator.h"
#include "engine/config/config.h"
#include "engine/model/arena.h"
#include "engine/model/decoder.h"
#include "engine/optim/adamw.h"
#include "kernels/ops.h"

namespace sinkscope {

/// Whether each rank keeps its share of the parameters alone.
bool has_parameters_by_section(const RanksConfig& config, int ranks);

/// By section every forward pass is one of all ranks, each on a batch of its own or by pass_by().
class RankParameters final : public ParameterSource {
 public:
  /// All must outlive it.
  RankParameters(Ops& ops, Decoder& decoder, Communicator& ranks, const RanksConfig& config);

  static std::vector<MemoryLine> memory_plan(const ParameterLayout& layout, const RanksConfig& config, int ranks,
                                             DType compute);

  bool by_section() const { return by_section_; }
  /// The share that the rank updates, (share) real.
  Tensor own() const;
  /// Every rank has changed its own ones: passes that are enqueued from now on see those of all. Where the communicator
  /// shares beside other work the next forward pass is one of all ranks, in which each section travels while the one
  /// before it computes, or settle() comes before it.
  void changed();
  /// What has not travelled since changed() does, on all ranks. The host waits for it, where it is known to wait for
  /// other ranks: not for what a pass computes, or, where the pass takes sections as it goes, for all but what is left
  /// of it behind the last.
  void settle();
  /// What another rank's forward pass, or its for_each_parameter(), takes of this one; nothing unless by section.
  void pass_by();
  /// Rank 0 does `work`; by section the others take part in its forward passes until it is done.
  void of_rank_0(const std::function<void()>& work);
  /// Of passes that are looked into from the host, by section: the host waits for each section, where it is known to
  /// wait for other ranks, since a copy to it would wait unseen. On all ranks alike.
  void looked_into(const std::function<void()>& passes);

  bool has_all() const override { return !by_section_ && new_ != New::waiting; }
  void begin_forward() override;
  void need(std::int64_t section) override;
  void expect(std::int64_t section) override;
  void end_forward() override;

 private:
  /// What a place of the decoder's holds.
  struct Held {
    std::int64_t section = -1;  // -1: nothing that is still valid
    std::int64_t mark = 0;      // of the communicator, when it is there
    bool joined = false;        // the Ops waits for it already
  };
  Held& fetch(std::int64_t section);
  void share(std::int64_t section, std::vector<Stretch>& stretches) const;

  Ops* ops_;
  Decoder* decoder_;
  Communicator* ranks_;
  bool by_section_, dealt_;
  bool late_;  // parameters travel in the forward pass behind an update
  OptimizerShare share_;
  Arena arena_;
  std::size_t own_ = 0;                 // (share) real, where the ranks divide anything
  std::map<const void*, Held> places_;  // by their address
  /// Parameters since changed(), not by section; late ones wait for a forward pass.
  enum class New { here, under_way, waiting } new_ = New::here;
  bool leads_others_ = false, looked_into_ = false;
};

}  // namespace sinkscope
