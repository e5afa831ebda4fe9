#include "transport/tcp_guests.h"

#include <algorithm>
#include <map>

#include "base/check.h"

namespace baton::transport::tcp {

Guests::Guest& Guests::at(int fd) {
  const auto it = std::find_if(guests_.begin(), guests_.end(), [fd](const Guest& g) { return g.fd == fd; });
  BATON_CHECK(it != guests_.end(), "descriptor {} is no guest", fd);
  return *it;
}

std::optional<int> Guests::oldest_of_the_most(const std::function<bool(const Guest&)>& candidate) const {
  std::map<Network, size_t> crowds;
  for (const Guest& g : guests_) {
    if (!g.proven && candidate(g)) ++crowds[g.network];
  }
  std::optional<int> victim;
  size_t crowd = 0;
  for (const Guest& g : guests_) {
    if (g.proven || !candidate(g) || crowds.at(g.network) <= crowd) continue;
    victim = g.fd;
    crowd = crowds.at(g.network);
  }
  return victim;
}

std::optional<int> Guests::longest_unused(const std::function<bool(const Guest&)>& candidate) const {
  const Guest* victim = nullptr;
  for (const Guest& g : guests_) {
    if (!g.proven || g.busy || !candidate(g)) continue;
    if (victim == nullptr || g.used < victim->used) victim = &g;
  }
  return victim == nullptr ? std::nullopt : std::optional(victim->fd);
}

std::optional<int> Guests::arrive(int fd, const Network& from, TimePoint now) {
  guests_.push_back({.fd = fd, .network = from, .writer = {}, .arrived = now, .used = now});
  const auto strangers = std::count_if(guests_.begin(), guests_.end(), [](const Guest& g) { return !g.proven; });
  if (static_cast<size_t>(strangers) <= limits_.strangers) return std::nullopt;
  const auto other = [fd](const Guest& g) { return g.fd != fd; };
  if (auto victim = oldest_of_the_most([&](const Guest& g) { return other(g) && !is_expected(g); })) return victim;
  return oldest_of_the_most(other);
}

std::optional<int> Guests::greet(int fd, const Incarnation& writer) {
  at(fd).writer = writer;
  const auto of_writer = [&](const Guest& g) { return g.writer == writer; };
  if (static_cast<size_t>(std::count_if(guests_.begin(), guests_.end(), of_writer)) <= limits_.of_a_writer)
    return std::nullopt;
  // Whoever knows the writer's name can claim it; its own connections have proven themselves, or soon do.
  if (auto victim = oldest_of_the_most([&](const Guest& g) { return of_writer(g) && g.fd != fd; })) return victim;
  return longest_unused(of_writer).value_or(fd);
}

std::optional<int> Guests::prove(int fd) {
  at(fd).proven = true;
  const auto proven = std::count_if(guests_.begin(), guests_.end(), [](const Guest& g) { return g.proven; });
  if (static_cast<size_t>(proven) <= limits_.proven) return std::nullopt;
  return longest_unused([&](const Guest& g) { return g.fd != fd && !is_expected(g); }).value_or(fd);
}

void Guests::use(int fd, TimePoint now, bool busy) {
  Guest& guest = at(fd);
  guest.used = now;
  guest.busy = busy;
}

void Guests::leave(int fd) {
  std::erase_if(guests_, [fd](const Guest& g) { return g.fd == fd; });
}

std::vector<int> Guests::overdue(TimePoint now, const Patience& patience) const {
  std::vector<int> out;
  for (const Guest& g : guests_) {
    const bool late = !g.writer   ? now - g.arrived >= patience.greeting
                      : !g.proven ? now - g.arrived >= patience.proof && !is_expected(g)
                                  : false;
    if (late || (g.busy && now - g.used >= patience.stall)) out.push_back(g.fd);
  }
  return out;
}

bool Guests::watched() const {
  return std::any_of(guests_.begin(), guests_.end(), [](const Guest& g) { return !g.proven || g.busy; });
}

}  // namespace baton::transport::tcp
