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

// Writes out a number like 25.6k, 2M or 4Ki, as SGLang takes some; to be given to transform() after number_from().
[[nodiscard]] CLI::Validator human_number();

// Flags of other servers that mean nothing here. They are parsed and remembered, so that a command line needs only its
// program's name changed.
class ForeignFlags {
 public:
  enum class Values : uint8_t { kNone, kOne, kMany };
  // `name`: a long one. One that the program has by now is left to it.
  void accept(CLI::App& app, const std::string& name, Values values, const std::string& why);
  // A list as "name name= name=+ name!": a switch, one value, one or more, a switch that has --no-name too.
  void accept_all(CLI::App& app, const std::string& list, const std::string& why);
  // The same of flags that must not be ignored: given, they end the program.
  void refuse_all(CLI::App& app, const std::string& list, const std::string& why);
  // One line for each that was given: "--trust-remote-code has no meaning here: ...".
  [[nodiscard]] std::vector<std::string> warnings() const;
  // kIncompatible if one was given that is refused.
  [[nodiscard]] Status check() const;

 private:
  struct Flag {
    CLI::Option* option;
    std::string name;
    std::string why;
    bool refused = false;
  };
  std::vector<Flag> flags_;
};

inline constexpr double kSecondsMax = 1e6;  // of a flag that takes seconds

// Read by http::parse_origins().
void add_allowed_origins(CLI::App& app, std::string& origins);

void add_drain_timeout(CLI::App& app, double& seconds);

// Writes out flags of `app` that were shortened, as argparse has it: "--context-len" is "--context-length" if no other
// flag begins so. kInvalidArgument: two begin so.
Result<std::vector<std::string>> expand_flags(const CLI::App& app, std::vector<std::string> arguments);

// The error for arguments that no option took, with the nearest flag by edit distance.
Status check_leftovers(const CLI::App& app, const std::vector<std::string>& leftovers);

// The text nearest to `word` among `candidates`, if it is near enough to be a slip; "" if not.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace baton::apps
