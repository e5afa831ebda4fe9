#include "command_line.h"

#include <algorithm>
#include <sstream>

namespace baton::apps {

CLI::Validator human_number() {
  return CLI::Validator(
      [](std::string& text) {
        constexpr struct {
          std::string_view suffix;
          double factor;
        } kUnits[] = {{"Ki", 0x1p10}, {"Mi", 0x1p20}, {"Gi", 0x1p30}, {"Ti", 0x1p40},
                      {"k", 1e3},     {"M", 1e6},     {"G", 1e9},     {"T", 1e12}};
        for (const auto& unit : kUnits) {
          if (!text.ends_with(unit.suffix)) continue;
          const char* end = text.data() + text.size() - unit.suffix.size();
          double value = 0;
          const auto [parsed, code] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
          constexpr double kExact = 0x1p53;
          if (code == std::errc() && parsed == end && std::abs(value) * unit.factor < kExact)
            text = fmt::format("{:.0f}", std::round(value * unit.factor));
          break;
        }
        return std::string();  // what is no number is for the next check to say
      },
      "");
}

void ForeignFlags::accept(CLI::App& app, const std::string& name, Values values, const std::string& why) {
  if (app.get_option_no_throw(name) != nullptr) return;
  CLI::Option* option = nullptr;
  if (values == Values::kNone) {
    option = app.add_flag_callback(
        name, [] {}, "(accepted, no meaning here)");
  } else {
    option = app.add_option_function<std::vector<std::string>>(
        name, [](const std::vector<std::string>&) {}, "(accepted, no meaning here)");
    option->expected(0, values == Values::kOne ? 1 : CLI::detail::expected_max_vector_size);
  }
  // Hidden from --help, and from then on an option does not tell its name.
  flags_.push_back({option->group(""), "--" + option->get_lnames().front(), why});
}

void ForeignFlags::accept_all(CLI::App& app, const std::string& list, const std::string& why) {
  std::istringstream words(list);
  for (std::string word; words >> word;) {
    const std::string name = "--" + word.substr(0, word.find_first_of("=!"));
    const Values values = word.ends_with("=+") ? Values::kMany : word.ends_with('=') ? Values::kOne : Values::kNone;
    accept(app, name, values, why);
    if (word.ends_with('!')) accept(app, "--no-" + name.substr(2), Values::kNone, why);
  }
}

void ForeignFlags::refuse_all(CLI::App& app, const std::string& list, const std::string& why) {
  const size_t before = flags_.size();
  accept_all(app, list, why);
  for (size_t i = before; i < flags_.size(); ++i) flags_[i].refused = true;
}

std::vector<std::string> ForeignFlags::warnings() const {
  std::vector<std::string> lines;
  for (const Flag& flag : flags_) {
    if (flag.option->count() > 0) lines.push_back(fmt::format("{} has no meaning here: {}", flag.name, flag.why));
  }
  return lines;
}

Status ForeignFlags::check() const {
  for (const Flag& flag : flags_) {
    if (flag.refused && flag.option->count() > 0)
      return error(ErrorCode::kIncompatible, "{} cannot be had here: {}", flag.name, flag.why);
  }
  return {};
}

namespace {

// The flags of `app` that begin with `beginning`, one name for each.
std::vector<std::string> flags_beginning(const CLI::App& app, const std::string& beginning) {
  std::vector<std::string> found;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      if (!("--" + name).starts_with(beginning)) continue;
      found.push_back("--" + name);
      break;
    }
  }
  return found;
}

bool has_flag(const CLI::App& app, const std::string& flag) {
  for (const CLI::Option* option : app.get_options()) {
    const auto& names = option->get_lnames();
    if (std::find(names.begin(), names.end(), flag.substr(2)) != names.end()) return true;
  }
  return false;
}

}  // namespace

Result<std::vector<std::string>> expand_flags(const CLI::App& app, std::vector<std::string> arguments) {
  for (std::string& argument : arguments) {
    const std::string flag = argument.substr(0, argument.find('='));
    if (!flag.starts_with("--") || flag.size() < 4 || has_flag(app, flag)) continue;
    const std::vector<std::string> found = flags_beginning(app, flag);
    if (found.size() > 1) {
      constexpr size_t kNamedMax = 5;
      return error(ErrorCode::kInvalidArgument, "{} may be {}{}", flag,
                   fmt::join(found.begin(),
                             found.begin() + static_cast<std::ptrdiff_t>(std::min(found.size(), kNamedMax)), ", "),
                   found.size() > kNamedMax ? " and others" : "");
    }
    if (!found.empty()) argument.replace(0, flag.size(), found.front());
  }
  return arguments;
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

void add_allowed_origins(CLI::App& app, std::string& origins) {
  app.add_option("--allowed-origins,--cors-allowed-origins", origins,
                 "Web pages that may use this server from a browser, as https://HOST[:PORT],... or *; none by default");
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
