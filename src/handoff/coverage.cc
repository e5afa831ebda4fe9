#include "handoff/coverage.h"

#include <xxhash.h>

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace baton {

std::vector<Piece> pieces_of(const Plan& plan, int destination) {
  std::vector<Piece> pieces;
  for (const Piece& piece : plan.pieces) {
    if (piece.destination == destination) pieces.push_back(piece);
  }
  for (const LocalCopy& copy : plan.local_copies) {
    if (copy.destination != destination) continue;
    const auto origin = std::find_if(plan.pieces.begin(), plan.pieces.end(), [&](const Piece& piece) {
      return piece.destination == copy.source && piece.layers == copy.layers && piece.heads == copy.heads &&
             piece.stripe == copy.stripe && piece.stripes == copy.stripes;
    });
    BATON_CHECK(origin != plan.pieces.end(), "rank {} copies from rank {} what no one wrote there", destination,
                copy.source);
    pieces.push_back(*origin);
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return std::tuple(a.layers.begin, a.heads.begin, a.stripe) < std::tuple(b.layers.begin, b.heads.begin, b.stripe);
  });
  return pieces;
}

PageHasher::PageHasher() : state_(XXH3_createState()) {
  BATON_CHECK(state_ != nullptr, "no memory for a hash");
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_));
}
PageHasher::~PageHasher() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }
void PageHasher::add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), bytes.data(), bytes.size());
}
uint64_t PageHasher::digest() const { return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_)); }

}  // namespace baton
