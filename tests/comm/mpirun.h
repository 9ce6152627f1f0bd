// The program as several ranks of this machine.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tests/end_to_end/program.h"

namespace sinkscope::test {

/// "mpirun -n RANKS" with all that sharing few cores asks for; a program and its arguments follow.
std::string mpirun(int ranks);

/// `sinkscope ARGUMENTS` on so many ranks; by itself for 1.
Outcome run_ranks(const Workplace& place, int ranks, const std::string& arguments);

/// The same, and once the run's metrics.jsonl has `lines` lines `then` is called with the processes of the ranks.
Outcome run_ranks_until(const Workplace& place, int ranks, const std::string& arguments, const std::string& metrics,
                        std::size_t lines, const std::function<void(const std::vector<pid_t>&)>& then);

/// The process whose working folder this is and whose environment has the variable so ("RANK=1"); 0 where there is
/// none.
pid_t process_with(const std::filesystem::path& folder, const std::string& variable);

/// Stops the main thread of a process that descends from this one, and no other of its threads, until the process is
/// gone; false where the system does not allow it.
bool stand_still_until_gone(pid_t process);

}  // namespace sinkscope::test
