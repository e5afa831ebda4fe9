#include "engine/unified_role.h"

namespace baton::engine {

Status UnifiedRole::accept(LiveRequest& live) {
  core_.add_sequence(live, scheduler::EntryMode::kCompute, live.sampling().max_new_tokens);
  return {};
}

void UnifiedRole::sampled(LiveRequest& live, GeneratedToken token) { core_.emit(live, std::move(token)); }

void UnifiedRole::release(LiveRequest& live, const std::string&) { core_.scheduler().finish(live.sequence); }

void UnifiedRole::pair(const std::string& host, int port, bool, std::function<void(Status)> done) {
  done(error(ErrorCode::kInvalidArgument, "a unified instance pairs with no one; {}:{} was asked for", host, port));
}

}  // namespace baton::engine
