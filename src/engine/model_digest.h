// What two instances compare to know that KV of one means something to the other.
#pragma once

#include "base/ids.h"
#include "base/result.h"
#include "model/executor.h"

namespace baton::engine {

// XXH3-128 over config.json and the weights' digest, or, for dummy weights, their seed.
Result<ModelDigest> digest_of_model(const model::ExecutorOptions& options);

}  // namespace baton::engine
