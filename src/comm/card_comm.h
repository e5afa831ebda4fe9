// The exchange between rank threads of one process whose buffers lie on cards, the same one or several.
#pragma once

#include <memory>

#include "comm/comm.h"
#include "comm/rank_group.h"

namespace baton::comm {

// Ranks of one group.
inline constexpr int kCardRanksMax = 32;

// Of the rank whose operations go to `stream` (a cudaStream_t) of card `card`, which is the current one where they are
// called. Bytes lie on that card. Operations return when their work is in the stream, before it is done. Where every
// rank has a card to itself, cards exchange without the processor (cuda/exchange.h), and sums and gatherings may be
// recorded once one has been done; ranks that share a card meet in their threads. Then memory must not be allocated or
// freed by a rank whose next operation others may be waiting for, but in the order of its stream: that may wait for
// their kernels. Borrows the group, which all ranks share. Only in a build with CUDA.
[[nodiscard]] std::unique_ptr<Comm> make_card_comm(RankGroup& group, int rank, int card, void* stream);

}  // namespace baton::comm
