#include "base/check.h"
#include "comm/card_comm.h"

namespace baton::comm {

std::unique_ptr<Comm> make_card_comm(RankGroup&, int, int card, void*) {
  BATON_CHECK(false, "ranks on card {} in a build that computes on the CPU only", card);
  return nullptr;
}

}  // namespace baton::comm
