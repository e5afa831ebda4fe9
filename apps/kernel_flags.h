// Which kernels other servers' launch lines ask for, and which serve them here: there is one implementation of each
// operation on a device.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "device/memory.h"

namespace baton::apps {

struct KernelFlags {
  std::string attention, prefill_attention, decode_attention, sampling;
};

// --attention-backend and the like: SGLang's names, and "baton".
void add_kernel_flags(CLI::App& app, KernelFlags& flags);
// One line for people: what serves on this device, and which of the flags that answers.
[[nodiscard]] std::string describe_kernels(const KernelFlags& flags, const device::Home& home);

}  // namespace baton::apps
