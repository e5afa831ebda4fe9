// How many bytes of request bodies a server holds at a time, over all its connections.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

namespace baton::http {

// Thread safe. Leases keep it alive.
class BodyBudget : public std::enable_shared_from_this<BodyBudget> {
 public:
  // A body of at most so many bytes counts as small.
  static constexpr size_t kSmallBytes = 64 << 10;

  // One body's share. Gives it back when it goes; used by one thread at a time.
  class Lease {
   public:
    explicit Lease(std::shared_ptr<BodyBudget> budget) : budget_(std::move(budget)) {}
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    // The body has `bytes` now, no fewer than before. False: they do not fit, and the lease stays as it was.
    [[nodiscard]] bool grow_to(size_t bytes);

   private:
    std::shared_ptr<BodyBudget> budget_;
    size_t bytes_ = 0;
  };

  // The last eighth of `bytes_max` is kept for small bodies, so that a few large ones do not shut out everybody else.
  explicit BodyBudget(size_t bytes_max) : bytes_max_(bytes_max) {}
  [[nodiscard]] std::shared_ptr<Lease> lease() { return std::make_shared<Lease>(shared_from_this()); }
  [[nodiscard]] size_t used() const { return used_.load(); }

 private:
  const size_t bytes_max_;
  std::atomic<size_t> used_{0};
};

}  // namespace baton::http
