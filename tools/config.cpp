#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/config/load.h"
#include "tools/arguments.h"
#include "tools/commands.h"

namespace sinkscope {

void add_config_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("config", "Print the schema, the reference or a resolved config");
  command->require_subcommand(1);
  command->add_subcommand("schema", "JSON Schema of a config file")->callback([] {
    std::cout << config_schema().dump(2) << std::endl;
  });
  command->add_subcommand("reference", "every key, its type, default and meaning (Markdown)")->callback([] {
    std::cout << config_reference() << std::flush;
  });
  struct Arguments {
    std::string config;
    std::vector<std::string> overrides;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* show = command->add_subcommand("show", "a config with presets and overrides applied");
  show->add_option("config", arguments->config, "config file (JSON)")->required()->type_name("CONFIG");
  add_set_option(*show, arguments->overrides, "override; may be repeated");
  show->callback([arguments] {
    std::cout << to_json(load_config(arguments->config, arguments->overrides)).dump(2) << std::endl;
  });
}

}  // namespace sinkscope
