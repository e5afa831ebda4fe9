// Ids that cannot be mixed up: Id<struct PageTag, uint32_t> and Id<struct RankTag, int32_t> are different types.
#pragma once

#include <fmt/format.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

namespace baton {

template <typename Tag, typename Rep>
class Id {
 public:
  using rep = Rep;
  constexpr Id() = default;
  constexpr explicit Id(Rep value) : value_(value) {}
  [[nodiscard]] constexpr Rep value() const { return value_; }
  constexpr auto operator<=>(const Id&) const = default;

 private:
  Rep value_{};
};

// One try of a handoff; 63 bits, never 0. It is the bootstrap_room of the wire API.
using AttemptId = Id<struct AttemptTag, uint64_t>;
// One token stream inside an instance; never reused while the process lives.
using SequenceId = Id<struct SequenceTag, uint64_t>;
// A page of one DP group's pool: an index below the pool's page count.
using PageId = Id<struct PageTag, uint32_t>;

// 128 random bits that a process draws when it starts. A message from an incarnation that is not current is dropped.
struct Incarnation {
  uint64_t high = 0;
  uint64_t low = 0;
  constexpr auto operator<=>(const Incarnation&) const = default;
  [[nodiscard]] std::string to_string() const { return fmt::format("{:016x}{:016x}", high, low); }
};

// 128 bits over a model's weights, or over weights and configuration: what must be equal on both sides for KV of one to
// mean anything to the other.
struct ModelDigest {
  uint64_t high = 0;
  uint64_t low = 0;
  constexpr auto operator<=>(const ModelDigest&) const = default;
  [[nodiscard]] std::string to_string() const { return fmt::format("{:016x}{:016x}", high, low); }
};

}  // namespace baton

template <typename Tag, typename Rep>
struct std::hash<baton::Id<Tag, Rep>> {
  size_t operator()(const baton::Id<Tag, Rep>& id) const { return std::hash<Rep>()(id.value()); }
};

template <>
struct std::hash<baton::Incarnation> {
  size_t operator()(const baton::Incarnation& i) const {
    return std::hash<uint64_t>()(i.high ^ (i.low * 0x9e3779b97f4a7c15));
  }
};

template <typename Tag, typename Rep>
struct fmt::formatter<baton::Id<Tag, Rep>> : fmt::formatter<Rep> {
  auto format(const baton::Id<Tag, Rep>& id, fmt::format_context& context) const {
    return fmt::formatter<Rep>::format(id.value(), context);
  }
};
