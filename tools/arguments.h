// The words of a command line that the parser did not understand.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace sinkscope {

/// After a parse that failed: the first unknown command or option named, and the nearest known one
/// where one is near. Empty when every word was understood, and something else is wrong.
std::string unknown_word(const CLI::App& app);

}  // namespace sinkscope
