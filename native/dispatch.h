// Which kernels this processor and operating system can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace crossrank {

// All that can run here, best first; "portable" is always last.
const std::vector<const Kernels*>& available_kernels();

// The best, or the one that the environment variable CROSSRANK_ISA names.
// Throws std::invalid_argument where it names one that cannot run here.
const Kernels& default_kernels();

// By name; an empty name is default_kernels(). Throws std::invalid_argument.
const Kernels& find_kernels(const std::string& name);

}  // namespace crossrank
