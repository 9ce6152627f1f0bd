// What is wrong with markup, so that a page or a drawing that a reader would refuse fails a test.
#pragma once

#include <cstddef>
#include <string>

namespace sinkscope::test {

/// Empty for markup whose elements are closed in order and whose attributes are quoted, else what is wrong first.
/// Knows HTML's elements without content when `html`; otherwise it is XML, without control characters.
std::string markup_fault(const std::string& text, bool html);

/// How often `part` occurs.
std::size_t count_of(const std::string& text, const std::string& part);

}  // namespace sinkscope::test
