// What the commands share of the command line.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace sinkscope {

/// `--set KEY=VALUE`, which may be repeated and takes one value each time, so that a config may follow it.
void add_set_option(CLI::App& command, std::vector<std::string>& overrides, const std::string& description);

/// The same as text of a shell's command line, each behind a space: " --set 'KEY=VALUE'".
std::string set_options(const std::vector<std::string>& overrides);

/// One word of a shell's command line; in quotes where it needs any.
std::string shell_word(const std::string& text);

/// After a parse that failed: the first unknown command or option named, and the nearest known one
/// where one is near. Empty when every word was understood, and something else is wrong.
std::string unknown_word(const CLI::App& app);

}  // namespace sinkscope
