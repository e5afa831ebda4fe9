// One client call from the engine's tokens to its answer.
#pragma once

#include <memory>

#include "engine/engine.h"
#include "http/api_request.h"
#include "http/live_names.h"
#include "http/metrics.h"
#include "http/server.h"

namespace baton::http {

// Submits every choice of the call and answers when and as the engine delivers. Errors before the first token are real
// statuses; later ones are an error event (S7). A client that leaves aborts every choice. `headers`: added to the
// answer (x-request-id). `model`, `engine` and `metrics` outlive the call. `names`: released when all is computed, or
// the client has left.
void start_generation(ApiRequest request, const ModelText& model, engine::Engine& engine, Metrics& metrics,
                      std::shared_ptr<ResponseWriter> writer, Headers headers,
                      std::shared_ptr<LiveNames::Hold> names = nullptr);

}  // namespace baton::http
