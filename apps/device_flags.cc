#include "device_flags.h"

#include "command_line.h"
#include "device/cuda.h"

namespace baton::apps {

void add_device_flags(CLI::App& app, DeviceFlags& flags) {
  app.add_option("--device", flags.device,
                 "auto, cpu or cuda; auto: a GPU if there is one and it can do what is asked for")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option("--base-gpu-id", flags.base_gpu_id, "GPU of the first rank")->transform(number_from(0, 1023));
  app.add_option("--gpu-id-step", flags.gpu_id_step, "From one rank's GPU to the next one's; 0: all ranks share one")
      ->transform(number_from(0, 1023));
}

Result<device::Home> first_device(const DeviceFlags& flags, int ranks, bool card_will_do) {
  if (flags.device == "cpu" || (flags.device == "auto" && !card_will_do)) return device::Home{};
  const int cards = device::cuda_device_count();
  const int needed = flags.base_gpu_id + (ranks - 1) * flags.gpu_id_step + 1;
  if (needed <= cards) return device::Home{device::DeviceKind::kCuda, flags.base_gpu_id};
  if (flags.device == "auto") return device::Home{};
  return error(
      ErrorCode::kIncompatible,
      "--device cuda: {} rank{} from --base-gpu-id {} on, --gpu-id-step {}, need{} {} GPU{}, this build and machine "
      "have {}; lower --base-gpu-id, --gpu-id-step or --tp-size, build with ./dev build cuda, or say --device cpu",
      ranks, ranks == 1 ? "" : "s", flags.base_gpu_id, flags.gpu_id_step, ranks == 1 ? "s" : "", needed,
      needed == 1 ? "" : "s", cards);
}

}  // namespace baton::apps
