// Where the parameters of a decoder come from that does not have all of them at a time, or not yet.
#pragma once

#include <cstdint>

namespace sinkscope {

/// Sections are those of the parameters' layout. A pass needs one after the other: forward all in their order, backward
/// the blocks from the last to the first. In a decoder with parameters by section blocks take turns in two places; what
/// lies in other places stays there.
class ParameterSource {
 public:
  virtual ~ParameterSource() = default;
  /// Whether all lies there, so that passes need not ask.
  virtual bool has_all() const = 0;
  virtual void begin_forward() = 0;
  /// Operations that are enqueued from now on find the section in its place.
  virtual void need(std::int64_t section) = 0;
  /// It will be needed next, and all operations that use what is in its place now are enqueued.
  virtual void expect(std::int64_t section) = 0;
  virtual void end_forward() = 0;
};

}  // namespace sinkscope
