// A run of train(): what it holds from its beginning to its end. Of this folder alone.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/comm/world.h"
#include "engine/data/dataset.h"
#include "engine/data/tokenizer.h"
#include "engine/optim/adamw.h"
#include "engine/probes/causal.h"
#include "engine/probes/phases.h"
#include "engine/probes/probe_pass.h"
#include "engine/probes/probe_sets.h"
#include "engine/train/alerts.h"
#include "engine/train/batch_share.h"
#include "engine/train/gradient_sums.h"
#include "engine/train/rank_parameters.h"
#include "engine/train/rank_weights.h"
#include "engine/train/run_files.h"
#include "engine/train/run_lock.h"
#include "engine/train/run_log.h"
#include "engine/train/trainer.h"
#include "engine/train/training_batches.h"

namespace sinkscope {

class Run {
 public:
  Run(const Config& config, TrainOptions options, World& world);
  /// What NCCL still has under way after an error is given up before memory that it may use is waited for and released.
  ~Run() { ranks_.reset(); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;
  TrainResult execute();

 private:
  void connect();
  void share_state();
  bool works_for_all(std::int64_t step) const;
  bool probes_after(std::int64_t step) const;

  // In run_start.cpp.
  void begin();
  void resume();
  void load(const std::filesystem::path& checkpoint);
  void initialize();
  void announce() const;
  void start(const std::string& how);
  void write_config() const;
  std::string device() const;

  StepRecord training_step(std::int64_t step);
  void evaluate(StepRecord& record);
  void probe(std::int64_t step, double loss);
  void test_causes(std::int64_t step);
  void sample(std::int64_t step);
  void save(std::int64_t step);
  void end(std::int64_t step);
  std::string tensor_not_finite(const std::optional<Batch>& suspect);
  void expect_finite(std::int64_t step, const std::string& what, std::span<const float> values);
  std::runtime_error tell_not_finite(std::int64_t step, const std::string& what, double value,
                                     const std::string& tensor);
  [[noreturn]] void stop_not_finite(std::int64_t step, const std::string& what, double value,
                                    const std::string& tensor);

  bool told_to_stop() const { return options_.stop != nullptr && options_.stop->load(); }
  std::int64_t tokens_after(std::int64_t step) const { return step * tokens_per_step_; }

  World& world_;
  TrainOptions options_;
  Dataset dataset_;
  Config config_;
  BatchShare share_;
  std::filesystem::path directory_;
  std::optional<RunLock> lock_;
  std::vector<ProbeSet> probe_sets_;
  std::unique_ptr<Ops> ops_;
  Decoder decoder_;
  AdamW optimizer_;
  std::unique_ptr<Communicator> ranks_;
  std::optional<GradientSums> gradients_;
  std::optional<RankParameters> parameters_;
  std::optional<RankWeights> weights_;
  BatchQueue batches_;
  std::optional<Windows> validation_windows_;
  std::optional<ProbePass> probe_pass_;
  std::optional<CausalTests> causal_tests_;
  PhaseDetector phases_;
  AlertDetector alerts_;
  std::unique_ptr<Tokenizer> tokenizer_;
  LoopState state_;
  std::int64_t tokens_per_step_ = 0;
  RunLog log_;
  double flops_per_token_ = 0;
  std::optional<double> peak_flops_;  // of the GPU, where it is known

  bool stops_ = false;  // any rank was told to, as of the last step's message
  HostWeights begun_;   // on rank 0, what the run begins with or goes on from, until share_state()

  std::vector<float> losses_;  // on the host, of a batch
};

}  // namespace sinkscope
