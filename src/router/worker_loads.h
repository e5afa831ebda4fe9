// What workers say of their load, put together.
#pragma once

#include <string>
#include <vector>

#include "router/fan_out.h"

namespace baton::router {

// Of replies to /get_load or /v1/loads. Whoever did not answer is left out.
// The entries of all workers' DP ranks in one list, each with its worker's url.
[[nodiscard]] std::string loads_of_ranks(const std::vector<WorkerReply>& replies);
// The same list as a server of SGLang's answers, with the sums of all.
[[nodiscard]] std::string loads_in_all(const std::vector<WorkerReply>& replies, const std::string& version);
// sglang-router's: the tokens that each worker holds, -1 of one that did not answer.
[[nodiscard]] std::string loads_of_workers(const std::vector<WorkerReply>& replies);

}  // namespace baton::router
