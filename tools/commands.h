// The subcommands of `sinkscope`, one file each. A command declares its flags on `app` and does its
// work in the callback; what goes wrong is thrown, main() prints it and exits with status 1.
#pragma once

namespace CLI {
class App;
}

namespace sinkscope {

void add_train_command(CLI::App& app);
void add_ablate_command(CLI::App& app);
void add_compare_command(CLI::App& app);
void add_monitor_command(CLI::App& app);
void add_tokenize_command(CLI::App& app);
void add_export_command(CLI::App& app);
void add_probe_command(CLI::App& app);
void add_convert_llama2c_command(CLI::App& app);
void add_probe_dump_command(CLI::App& app);
void add_train_dump_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_doctor_command(CLI::App& app);
void add_config_command(CLI::App& app);

}  // namespace sinkscope
