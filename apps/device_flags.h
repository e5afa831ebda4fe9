// On which device ranks compute: --device, --base-gpu-id and --gpu-id-step.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "base/result.h"
#include "device/memory.h"

namespace baton::apps {

struct DeviceFlags {
  std::string device = "auto";
  int base_gpu_id = 0, gpu_id_step = 1;
};

void add_device_flags(CLI::App& app, DeviceFlags& flags);

// The device of the first of `ranks` ranks. auto is a card if this build and the machine have one and `card_will_do`,
// else the processor. kIncompatible, with the remedy: cards that are asked for and are not there.
[[nodiscard]] Result<device::Home> first_device(const DeviceFlags& flags, int ranks, bool card_will_do);

}  // namespace baton::apps
