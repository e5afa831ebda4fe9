// What every subcommand's flags share: a mistyped one suggests the nearest, one without meaning here is accepted with a
// warning.
#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <concepts>
#include <string>
#include <system_error>
#include <vector>

#include "base/result.h"

namespace baton::apps {

// The check of a flag's number: "--tp-size: 0 is not a whole number from 1 to 1024". Stands in place of CLI11's Range
// and its relatives, which print a double's bounds with 300 digits, let nan and an inverted sign through, and read 010
// as octal. Numbers are decimal; each flag has a highest value that its use can bear. To be given to transform(), since
// it also takes leading zeros away.
template <typename T>
requires std::integral<T> || std::floating_point<T>
[[nodiscard]] CLI::Validator number_from(T low, T high) {
  static constexpr const char* kKind = std::integral<T> ? "whole number" : "number";
  return CLI::Validator(
      [low, high](std::string& text) {
        T value{};
        const char* end = text.data() + text.size();
        const auto [parsed, code] = std::from_chars(text.data(), end, value);
        const bool fits = code == std::errc() && parsed == end && value >= low && value <= high;  // never of a nan
        if (!fits) return fmt::format("{} is not a {} from {} to {}", text, kKind, low, high);
        text = fmt::format("{}", value);  // without leading zeros, which CLI11 takes for octal
        return std::string();
      },
      fmt::format("{} to {}", low, high));
}

// Flags of other servers that mean nothing here. They are parsed and remembered, so that a command line needs only its
// program's name changed.
class ForeignFlags {
 public:
  // `names`: long ones. `value`: the flag may have one.
  void accept(CLI::App& app, const std::string& names, bool value, const std::string& why);
  // One line for each that was given: "--trust-remote-code has no meaning here: ...".
  [[nodiscard]] std::vector<std::string> warnings() const;

 private:
  struct Flag {
    CLI::Option* option;
    std::string name;
    std::string why;
  };
  std::vector<Flag> flags_;
};

inline constexpr double kSecondsMax = 1e6;  // of a flag that takes seconds

void add_drain_timeout(CLI::App& app, double& seconds);

// The error for arguments that no option took, with the nearest flag by edit distance.
Status check_leftovers(const CLI::App& app, const std::vector<std::string>& leftovers);

// The text nearest to `word` among `candidates`, if it is near enough to be a slip; "" if not.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace baton::apps
