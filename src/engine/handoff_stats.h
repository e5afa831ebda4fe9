// The handoff service's counts in the words of EngineStats.
#pragma once

#include "engine/engine.h"
#include "handoff/events.h"

namespace baton {

void fill_from_handoff(const HandoffStats& handoff, EngineStats* stats);

}  // namespace baton
