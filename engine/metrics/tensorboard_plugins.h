// What TensorBoard shows beside curves: the settings of a run as hyperparameters, and pages of chosen curves. Messages
// of tensorboard/plugins/hparams/{api,plugin_data}.proto and tensorboard/plugins/custom_scalar/layout.proto.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "engine/metrics/event_file.h"

namespace sinkscope {

/// Hyperparameters: every number, string, boolean of the config's model, data and train, under its dotted key, and the
/// curves that the dashboard holds them against. `seconds`: since 1970.
void add_hyperparameters(Summary& summary, const nlohmann::ordered_json& config, double seconds);
/// That the run has ended as it should.
void add_finished(Summary& summary, double seconds);
/// Charts of several curves each: losses, sink, circuit, norms, gradients.
void add_layout(Summary& summary);

}  // namespace sinkscope
