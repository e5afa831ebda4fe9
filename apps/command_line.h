// What every subcommand's flags share: a mistyped one suggests the nearest, one without meaning here is accepted with a
// warning.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/result.h"

namespace baton {

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

// The error for arguments that no option took, with the nearest flag by edit distance.
Status check_leftovers(const CLI::App& app, const std::vector<std::string>& leftovers);

// The text nearest to `word` among `candidates`, if it is near enough to be a slip; "" if not.
std::string nearest(const std::string& word, const std::vector<std::string>& candidates);

}  // namespace baton
