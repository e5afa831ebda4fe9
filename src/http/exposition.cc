#include "http/exposition.h"

#include <charconv>
#include <cmath>
#include <limits>

namespace baton::http {
namespace {

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == ':';
}

std::string_view skip_blanks(std::string_view text) {
  while (text.starts_with(' ') || text.starts_with('\t')) text.remove_prefix(1);
  return text;
}

// A name off the front; empty if there is none.
std::string_view take_name(std::string_view* rest) {
  size_t size = 0;
  while (size < rest->size() && is_name_character((*rest)[size])) ++size;
  const std::string_view name = rest->substr(0, size);
  rest->remove_prefix(size);
  *rest = skip_blanks(*rest);
  return name;
}

// What is between quotes, as it is written, and the quotes with it off the front.
bool take_quoted(std::string_view* rest, std::string* value) {
  if (!rest->starts_with('"')) return false;
  for (size_t at = 1; at < rest->size(); ++at) {
    if ((*rest)[at] == '\\') {
      ++at;
    } else if ((*rest)[at] == '"') {
      *value = std::string(rest->substr(1, at - 1));
      rest->remove_prefix(at + 1);
      *rest = skip_blanks(*rest);
      return true;
    }
  }
  return false;
}

bool take_labels(std::string_view* rest, MetricSample* sample) {
  if (!rest->starts_with('{')) return true;
  *rest = skip_blanks(rest->substr(1));
  while (!rest->starts_with('}')) {
    std::pair<std::string, std::string> label;
    label.first = std::string(take_name(rest));
    if (label.first.empty() || !rest->starts_with('=')) return false;
    *rest = skip_blanks(rest->substr(1));
    if (!take_quoted(rest, &label.second)) return false;
    sample->labels.push_back(std::move(label));
    if (rest->starts_with(',')) {
      *rest = skip_blanks(rest->substr(1));
    } else if (!rest->starts_with('}')) {
      return false;
    }
  }
  *rest = skip_blanks(rest->substr(1));
  return true;
}

bool is_number(const std::string& text) {
  if (text == "NaN" || text == "+Inf" || text == "-Inf") return true;
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && end == text.data() + text.size();
}

bool read_sample(std::string_view line, MetricSample* sample) {
  sample->name = std::string(take_name(&line));
  if (sample->name.empty() || !take_labels(&line, sample)) return false;
  sample->value = std::string(line.substr(0, line.find_first_of(" \t")));  // a time may follow
  return is_number(sample->value);
}

// Whether a sample of this name is one of the family's.
bool belongs(const MetricFamily& family, std::string_view sample) {
  if (sample == family.name) return true;
  if (family.type != "histogram" && family.type != "summary") return false;
  if (!sample.starts_with(family.name)) return false;
  const std::string_view rest = sample.substr(family.name.size());
  return rest == "_bucket" || rest == "_sum" || rest == "_count";
}

}  // namespace

double MetricSample::number() const {
  if (value == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (value == "+Inf" || value == "-Inf") return (value[0] == '-' ? -1 : 1) * std::numeric_limits<double>::infinity();
  double number = 0;
  std::from_chars(value.data(), value.data() + value.size(), number);
  return number;
}

std::string MetricSample::key() const {
  std::string text = name;
  for (size_t i = 0; i < labels.size(); ++i)
    text += fmt::format("{}{}=\"{}\"", i == 0 ? "{" : ",", labels[i].first, labels[i].second);
  return labels.empty() ? text : text + "}";
}

Result<std::vector<MetricFamily>> parse_exposition(std::string_view text) {
  std::vector<MetricFamily> families;
  const auto family_of = [&](std::string_view name) -> MetricFamily& {
    if (families.empty() || families.back().name != name) families.push_back({std::string(name), "untyped", "", {}});
    return families.back();
  };
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = skip_blanks(text.substr(0, text.find('\n')));
    text.remove_prefix(
        std::min(text.size(), text.find('\n') == std::string_view::npos ? text.size() : text.find('\n') + 1));
    if (line.empty()) continue;
    if (line.starts_with('#')) {
      std::string_view rest = skip_blanks(line.substr(1));
      const std::string_view what = take_name(&rest);
      if (what != "HELP" && what != "TYPE") continue;
      MetricFamily& family = family_of(take_name(&rest));
      (what == "HELP" ? family.help : family.type) = std::string(rest);
      continue;
    }
    MetricSample sample;
    if (!read_sample(line, &sample))
      return error(ErrorCode::kInvalidArgument, "line {} is no sample: {}", number, line.substr(0, 100));
    MetricFamily& family =
        !families.empty() && belongs(families.back(), sample.name) ? families.back() : family_of(sample.name);
    family.samples.push_back(std::move(sample));
  }
  return families;
}

std::string render_exposition(const std::vector<MetricFamily>& families) {
  std::string text;
  for (const MetricFamily& family : families) {
    if (!family.help.empty()) text += fmt::format("# HELP {} {}\n", family.name, family.help);
    text += fmt::format("# TYPE {} {}\n", family.name, family.type);
    for (const MetricSample& sample : family.samples) text += sample.key() + " " + sample.value + "\n";
  }
  return text;
}

}  // namespace baton::http
