#include "base/random.h"

#include <sys/random.h>

#include "base/check.h"

namespace baton {

uint64_t entropy() {
  uint64_t bits = 0;
  BATON_CHECK(getrandom(&bits, sizeof(bits), 0) == sizeof(bits));
  return bits;
}

Incarnation draw_incarnation() { return Incarnation{entropy(), entropy()}; }

AttemptId draw_attempt() {
  uint64_t bits = 0;
  while (bits == 0) bits = entropy() >> 1;
  return AttemptId(bits);
}

}  // namespace baton
