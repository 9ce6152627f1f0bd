#include "tools/gpu_choice.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace sinkscope {
namespace {

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (begin <= list.size()) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    parts.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace

std::vector<std::string> gpu_choices(const std::string& list, const char* visible, std::size_t count,
                                     const std::string& flag) {
  const std::vector<std::string> here = visible == nullptr ? std::vector<std::string>{} : split(visible);
  std::vector<std::string> choices;
  for (const std::string& word : split(list)) {
    std::string choice = word;
    if (!word.starts_with("GPU-") && !word.starts_with("MIG-")) {
      std::size_t number = 0;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
      if (error != std::errc() || end != word.data() + word.size())
        throw std::runtime_error(flag + " " + list +
                                 ": expected numbers of GPUs, e.g. 0,1, or names as nvidia-smi -L has them; found \"" +
                                 word + "\"");
      if (number >= count)
        throw std::runtime_error(flag + " " + list + ": there is no GPU " + word + "; this process sees " +
                                 (count == 0   ? std::string("none")
                                  : count == 1 ? std::string("one, number 0")
                                               : std::to_string(count) + ", numbered from 0"));
      if (number < here.size()) choice = here[number];
    }
    if (std::find(choices.begin(), choices.end(), choice) != choices.end())
      throw std::runtime_error(flag + " " + list + ": " + word +
                               " is given twice; more arms than one a GPU are --jobs");
    choices.push_back(choice);
  }
  return choices;
}

}  // namespace sinkscope
