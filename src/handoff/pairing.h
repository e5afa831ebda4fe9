// Whether two instances can hand KV over, decided once when they meet (S9). Pure.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "handoff/events.h"
#include "layout/plan.h"
#include "transport/transport.h"
#include "wire/frames.h"

namespace baton::handoff {

// The plan of the pair, computed from both manifests: writer policy of prefill, fanout and element type of decode, to
// which prefill converts (converted_kv.h). kIncompatible says in one line what differs, with both sides and the remedy.
Result<layout::Planner> agree(const wire::Manifest& prefill, const wire::Manifest& decode);

// Whether the transport's address in a manifest is the sender's own: one that leads to another instance's memory would
// let whoever shows it meddle with that one's pairing.
[[nodiscard]] Status check_blob(const wire::Manifest& manifest);

// Fills role, transport, blob and regions, and checks that transport, pools and manifest agree: one incarnation, one
// pool per world rank, the
// shapes that the layout gives, pages_per_group pages in each.
Result<wire::Manifest> complete_manifest(wire::Manifest self, wire::InstanceRole role,
                                         const transport::Transport& transport, const std::vector<Pool>& pools);

// World rank of rank `r` of DP group `dp_rank`, r = pp_stage * attn_tp + attn_tp_rank as in Piece.
[[nodiscard]] int world_rank(const layout::Layout& layout, int dp_rank, int r);

}  // namespace baton::handoff
