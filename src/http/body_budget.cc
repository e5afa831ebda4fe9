#include "http/body_budget.h"

#include "base/check.h"

namespace baton::http {

BodyBudget::Lease::~Lease() { budget_->used_.fetch_sub(bytes_); }

bool BodyBudget::Lease::grow_to(size_t bytes) {
  BATON_CHECK(bytes >= bytes_, "a body of {} bytes shrinks to {}", bytes_, bytes);
  const size_t more = bytes - bytes_;
  const size_t max = bytes <= kSmallBytes ? budget_->bytes_max_ : budget_->bytes_max_ - budget_->bytes_max_ / 8;
  size_t used = budget_->used_.load();
  do {
    if (used > max || more > max - used) return false;
  } while (!budget_->used_.compare_exchange_weak(used, used + more));
  bytes_ = bytes;
  return true;
}

}  // namespace baton::http
