#include "base/check.h"

#include <cstdlib>

#include "base/log.h"

namespace baton {

void check_failed(const char* file, int line, const char* condition, const std::string& detail) {
  log_last_words(
      fmt::format("{}:{}: check failed: {}{}{}\n", file, line, condition, detail.empty() ? "" : ": ", detail));
  std::abort();
}

}  // namespace baton
