#include "engine/handoff_stats.h"

namespace baton::engine {

void fill_from_handoff(const handoff::HandoffStats& handoff, EngineStats* stats) {
  for (const auto& [ranks, link] : handoff.links) {
    stats->links.push_back({ranks.first, ranks.second, link.bytes, link.copies, true});
  }
  stats->checksums = handoff.checksums;
  stats->checksum_mismatches = handoff.checksum_mismatches;
  for (const auto& [reason, count] : handoff.failures) stats->transfer_failures[reason] = count;
}

}  // namespace baton::engine
