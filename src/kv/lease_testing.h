// For the tests of this folder.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/page_ledger.h"

namespace baton::kv {

inline std::vector<uint32_t> numbers(const std::vector<PageLease>& leases) {
  std::vector<uint32_t> pages;
  pages.reserve(leases.size());
  for (const PageLease& lease : leases) pages.push_back(lease.page().value());
  return pages;
}

}  // namespace baton::kv
