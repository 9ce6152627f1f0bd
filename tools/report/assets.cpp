#include "tools/report/assets.h"

#include <filesystem>
#include <stdexcept>
#include <vector>

#include "engine/files/cache_folder.h"
#include "engine/files/input_file.h"

namespace sinkscope {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> asset_folders() {
  if (const std::string chosen = environment("SINKSCOPE_ASSETS"); !chosen.empty()) return {chosen};
  std::vector<fs::path> folders = {SINKSCOPE_ASSET_DIR};
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) folders.push_back(program.parent_path().parent_path() / "share" / "sinkscope");
  folders.emplace_back(SINKSCOPE_INSTALLED_ASSET_DIR);
  if (const fs::path cache = user_cache_folder(); !cache.empty()) folders.push_back(cache);
  return folders;
}

std::string read_asset(const fs::path& file) {
  std::string text = read_text_file(file);
  if (text.empty()) throw std::runtime_error(file.string() + ": is empty");
  return text;
}

/// Only text that cannot end its element early may be written into the page as it is.
void check_embeddable(const std::string& text, const char* closing, const fs::path& file) {
  if (text.find(closing) != std::string::npos)
    throw std::runtime_error(file.string() + ": contains '" + closing + "' and cannot be embedded in a page");
}

}  // namespace

ChartLibrary load_chart_library() {
  std::string tried;
  for (const fs::path& folder : asset_folders()) {
    const fs::path script = folder / "uplot" / "uPlot.iife.min.js";
    std::error_code error;
    if (!fs::exists(script, error)) {
      tried += "\n  " + folder.string();
      continue;
    }
    const fs::path style = folder / "uplot" / "uPlot.min.css";
    const fs::path licence = folder / "uplot" / "LICENSE";
    ChartLibrary library{read_asset(script), read_asset(style), read_asset(licence)};
    check_embeddable(library.script, "</script", script);
    check_embeddable(library.script, "<!--", script);
    check_embeddable(library.style, "</style", style);
    check_embeddable(library.licence, "-->", licence);
    return library;
  }
  throw std::runtime_error("the page's chart library (uPlot) is not installed; run scripts/fetch_assets " +
                           std::string(SINKSCOPE_ASSET_DIR) +
                           " once (it needs npm), or leave the page out with --no-html. Looked in:" + tried);
}

}  // namespace sinkscope
