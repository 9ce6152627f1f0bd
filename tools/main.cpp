// sinkscope: pretraining with attention-sink probes, from the command line.
#include <CLI/CLI.hpp>
#include <csignal>
#include <exception>
#include <new>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <string>

#include "engine/comm/communicator.h"
#include "tools/arguments.h"
#include "tools/commands.h"
#include "tools/program.h"

int main(int argc, char** argv) {
  std::signal(SIGCHLD, SIG_DFL);  // where the parent's is ignored, which exec leaves so, no child could be waited for
  std::signal(SIGXFSZ, SIG_IGN);  // a file at its size limit (ulimit -f) is an error of write then, told as a full disk
  try {
    const auto log = spdlog::stderr_color_st("sinkscope");
    log->set_pattern("%n: %^%l%$: %v");
    spdlog::set_default_logger(log);

    CLI::App app("Transformer pretraining with built-in attention-sink probes", "sinkscope");
    app.set_version_flag("--version", sinkscope::build_description());
    app.require_subcommand(1);
    sinkscope::add_tokenize_command(app);
    sinkscope::add_train_command(app);
    sinkscope::add_ablate_command(app);
    sinkscope::add_compare_command(app);
    sinkscope::add_monitor_command(app);
    sinkscope::add_export_command(app);
    sinkscope::add_probe_command(app);
    sinkscope::add_convert_llama2c_command(app);
    sinkscope::add_probe_dump_command(app);
    sinkscope::add_train_dump_command(app);
    sinkscope::add_bench_command(app);
    sinkscope::add_config_command(app);
    sinkscope::add_doctor_command(app);
    try {
      app.parse(argc, argv);
    } catch (const CLI::Success& done) {
      const int status = app.exit(done);  // --help, --version
      sinkscope::expect_output_written();
      return status;
    } catch (const CLI::ParseError& error) {
      const std::string unknown = sinkscope::unknown_word(app);
      sinkscope::print_error(unknown.empty() ? error.what() : unknown);
      return 1;
    }
    sinkscope::expect_output_written();
  } catch (const sinkscope::StoppedBySignal& stopped) {
    return 128 + stopped.signal;
  } catch (const sinkscope::ToldElsewhere&) {
    return 1;
  } catch (const std::bad_alloc&) {
    sinkscope::print_error("out of memory");
    return 1;
  } catch (const std::exception& error) {
    sinkscope::print_error(error.what());
    return 1;
  }
  return 0;
}
