// The exchange between rank threads of one process whose buffers lie on cards, the same one or several.
#pragma once

#include <memory>

#include "comm/comm.h"
#include "comm/rank_group.h"

namespace baton::comm {

// Ranks of one group.
inline constexpr int kCardRanksMax = 32;

// Of the rank whose operations go to `stream` (a cudaStream_t) of card `card`. Operations wait for what the stream has
// done before, and return when their own work is in it. A sum is added up in the order of the ranks. Pipelines have no
// exchange on cards: send() and receive() fail. Borrows the group, which all ranks share. Only in a build with CUDA.
[[nodiscard]] std::unique_ptr<Comm> make_card_comm(RankGroup& group, int rank, int card, void* stream);

}  // namespace baton::comm
