#include "engine/engine.h"

namespace baton::engine {

const char* role_name(Role role) {
  switch (role) {
    case Role::kUnified:
      return "unified";
    case Role::kPrefill:
      return "prefill";
    case Role::kDecode:
      return "decode";
  }
  return "unknown";
}

}  // namespace baton::engine
