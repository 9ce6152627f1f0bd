// The files of this folder that make up the page, as the build embedded them (embed.cmake).
#pragma once

#include <string_view>

namespace sinkscope {

extern const std::string_view kPageHtml;
extern const std::string_view kPageCss;
extern const std::string_view kPageJs;
extern const std::string_view kHeatmapJs;
extern const std::string_view kExportJs;
extern const std::string_view kLiveJs;

}  // namespace sinkscope
