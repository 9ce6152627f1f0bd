#include "tools/arguments.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstring>
#include <vector>

#include "engine/config/words.h"

namespace sinkscope {
namespace {

/// The command as it was typed: "sinkscope config show".
std::string full_name(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name() : full_name(*app.get_parent()) + " " + app.get_name();
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands(std::function<bool(const CLI::App*)>()))
    names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

std::string in_shell_quotes(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

void add_set_option(CLI::App& command, std::vector<std::string>& overrides, const std::string& description) {
  command.add_option("--set", overrides, description)
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

std::string set_options(const std::vector<std::string>& overrides) {
  std::string text;
  for (const std::string& override_text : overrides) text += " --set " + in_shell_quotes(override_text);
  return text;
}

std::string shell_word(const std::string& text) {
  const auto is_plain = [](unsigned char c) { return std::isalnum(c) != 0 || std::strchr("_-./=,:+@%", c) != nullptr; };
  return !text.empty() && std::all_of(text.begin(), text.end(), is_plain) ? text : in_shell_quotes(text);
}

std::string unknown_word(const CLI::App& app) {
  const CLI::App* command = &app;
  std::vector<std::string> words = app.remaining();
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    const std::vector<std::string> more = command->remaining();
    words.insert(words.begin(), more.begin(), more.end());
  }
  for (std::string word : words) {
    const bool option = word.size() > 1 && word.front() == '-' && word != "--";
    const std::vector<std::string> known = option ? option_names(*command) : command_names(*command);
    if (known.empty()) continue;  // one value too many, which the parser names
    if (option) word.resize(std::min(word.find('='), word.size()));
    const std::string nearest = nearest_word(word, known);
    std::string message = (option ? "unknown option \"" : "unknown command \"") + word + "\"; ";
    if (!nearest.empty()) return message + "did you mean \"" + nearest + "\"?";
    return message + "see " + full_name(*command) + " --help";
  }
  return {};
}

}  // namespace sinkscope
