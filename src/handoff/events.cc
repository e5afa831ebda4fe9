#include "handoff/events.h"

namespace baton::handoff {

const char* attempt_outcome_name(AttemptOutcome outcome) {
  switch (outcome) {
    case AttemptOutcome::kCommitted:
      return "committed";
    case AttemptOutcome::kFailed:
      return "failed";
    case AttemptOutcome::kCancelled:
      return "cancelled";
  }
  return "?";
}

}  // namespace baton::handoff
