#include "command_line.h"

#include <algorithm>

namespace baton::apps {

void ForeignFlags::accept(CLI::App& app, const std::string& names, bool value, const std::string& why) {
  CLI::Option* option = nullptr;
  if (value) {
    option = app.add_option_function<std::string>(
        names, [](const std::string&) {}, "(accepted, no meaning here)");
  } else {
    option = app.add_flag_callback(
        names, [] {}, "(accepted, no meaning here)");
  }
  if (value) option->expected(0, 1);  // whatever it would have been
  // Hidden from --help, and from then on an option does not tell its name.
  flags_.push_back({option->group(""), "--" + option->get_lnames().front(), why});
}

std::vector<std::string> ForeignFlags::warnings() const {
  std::vector<std::string> lines;
  for (const Flag& flag : flags_) {
    if (flag.option->count() > 0) lines.push_back(fmt::format("{} has no meaning here: {}", flag.name, flag.why));
  }
  return lines;
}

std::string nearest(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // Levenshtein's distance, one row at a time.
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t substitute = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

void add_drain_timeout(CLI::App& app, double& seconds) {
  app.add_option("--drain-timeout", seconds,
                 "Seconds after SIGTERM or Ctrl-C in which running requests may be finished; what is left is cut off")
      ->transform(number_from(0.0, kSecondsMax));
}

Status check_leftovers(const CLI::App& app, const std::vector<std::string>& leftovers) {
  for (const std::string& argument : leftovers) {
    if (!argument.starts_with("--")) {
      return error(ErrorCode::kInvalidArgument, "'{}' is not expected here; see baton {} --help", argument,
                   app.get_name());
    }
    std::vector<std::string> known;
    for (const CLI::Option* option : app.get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
    const std::string name = argument.substr(0, argument.find('='));
    const std::string guess = nearest(name, known);
    if (guess.empty())
      return error(ErrorCode::kInvalidArgument, "unknown flag {}; see baton {} --help", name, app.get_name());
    return error(ErrorCode::kInvalidArgument, "unknown flag {}; did you mean {}?", name, guess);
  }
  return {};
}

}  // namespace baton::apps
