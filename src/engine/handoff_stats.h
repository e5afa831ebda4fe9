// The handoff service's counts in the words of EngineStats.
#pragma once

#include "engine/engine.h"
#include "handoff/events.h"

namespace baton::engine {

void fill_from_handoff(const handoff::HandoffStats& handoff, EngineStats* stats);

}  // namespace baton::engine
