// A curve in a terminal, of block characters.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace sinkscope {

/// `columns` values of a series at equal distances over its steps: the mean of what falls into a column, else what lies
/// on the line between its neighbours. Steps rise; as many steps as values, at least one.
std::vector<double> resample(std::span<const std::int64_t> steps, std::span<const double> values, std::size_t columns);

/// The same between the steps `from` and `to`, whatever the series spans; NaN where it has not begun or has ended.
std::vector<double> resample_between(std::span<const std::int64_t> steps, std::span<const double> values,
                                     std::int64_t from, std::int64_t to, std::size_t columns);

/// One line of block characters, from the smallest to the largest of the values, those in the middle when all are the
/// same; a blank for what is not a finite number.
std::string sparkline(std::span<const double> values);

/// The series as filled columns from 0 up, in lines of at most `width` columns: `rows` of the curve with its scale at
/// the left, then the first and the last step. `rows` is 3 at least. A dashed line at `mark`, above 0, runs where the
/// curve is below it; a column whose value is not a finite number holds "?". Widths that leave fewer than 10 columns
/// give 10.
std::string block_chart(std::span<const std::int64_t> steps, std::span<const double> values, double mark,
                        std::size_t rows, std::size_t width);

}  // namespace sinkscope
