#include "text/pre_tokenizer.h"

#include <algorithm>

#include "text/unicode.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

// GPT-2's pattern, which ByteLevel uses unless told not to.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr size_t kStepsMax = 32;  // each passes over the whole text; published files have up to 6

std::vector<SplitPart> parts_between(const std::vector<TextRange>& matches, size_t length) {
  std::vector<SplitPart> parts;
  parts.reserve(matches.size() * 2 + 1);
  size_t done = 0;
  for (const TextRange& match : matches) {
    if (done != match.begin) parts.push_back({{done, match.begin}, false});
    parts.push_back({match, true});
    done = match.end;
  }
  if (done != length) parts.push_back({{done, length}, false});
  return parts;
}

std::vector<TextRange> find_numeric_characters(std::string_view text) {
  std::vector<TextRange> matches;
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = decode_utf8(text.substr(at));
    if (is_numeric(unit.code_point)) matches.push_back({at, at + unit.length});
    at += unit.length;
  }
  return matches;
}

Result<SplitBehavior> behavior_of(const JsonNode& node) {
  BATON_ASSIGN(const std::string_view name, node.string());
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return node.refuse("behavior \"{}\" is unknown", name);
}

}  // namespace

std::vector<TextRange> apply_behavior(const std::vector<SplitPart>& parts, SplitBehavior behavior) {
  std::vector<TextRange> pieces;
  pieces.reserve(parts.size());
  bool previous_is_match = false;
  auto joins = [&](const SplitPart& part) {
    if (behavior == SplitBehavior::kContiguous) return part.is_match == previous_is_match;
    return part.is_match && !previous_is_match;
  };
  switch (behavior) {
    case SplitBehavior::kRemoved:
    case SplitBehavior::kIsolated:
      for (const SplitPart& part : parts) {
        if (!part.is_match || behavior == SplitBehavior::kIsolated) pieces.push_back(part.range);
      }
      break;
    case SplitBehavior::kContiguous:
    case SplitBehavior::kMergedWithPrevious:
      for (const SplitPart& part : parts) {
        if (joins(part) && !pieces.empty()) {
          pieces.back().end = part.range.end;
        } else {
          pieces.push_back(part.range);
        }
        previous_is_match = part.is_match;
      }
      break;
    case SplitBehavior::kMergedWithNext:
      for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
        if (joins(*part) && !pieces.empty()) {
          pieces.back().begin = part->range.begin;
        } else {
          pieces.push_back(part->range);
        }
        previous_is_match = part->is_match;
      }
      std::reverse(pieces.begin(), pieces.end());
      break;
  }
  return pieces;
}

Result<PreTokenizer> PreTokenizer::from_json(const JsonNode& node) {
  PreTokenizer result;
  BATON_TRY(result.append_steps(node));
  bool removes = false;
  for (auto step = result.steps_.rbegin(); step != result.steps_.rend(); ++step) {
    step->keeps_all = !removes && step->behavior == SplitBehavior::kIsolated;
    removes = removes || step->behavior == SplitBehavior::kRemoved;
  }
  return result;
}

Status PreTokenizer::append_steps(const JsonNode& node) {
  if (node.is_null()) return {};
  BATON_ASSIGN(const std::string_view type, node.type());
  if (type == "Sequence") {
    BATON_ASSIGN(const JsonNode list, node.member("pretokenizers"));
    BATON_ASSIGN(const std::vector<JsonNode> items, list.array());
    for (const JsonNode& item : items) BATON_TRY(append_steps(item));
    return {};
  }
  // What came after would see the byte alphabet instead of the text.
  if (!steps_.empty() && steps_.back().is_byte_level)
    return node.refuse("\"{}\" after ByteLevel is not supported", type);
  if (steps_.size() == kStepsMax) return node.refuse("more than {} pre-tokenizers", kStepsMax);
  if (type == "Split") {
    BATON_ASSIGN(steps_.emplace_back(), read_split(node));
  } else if (type == "ByteLevel") {
    BATON_ASSIGN(steps_.emplace_back(), read_byte_level(node));
  } else if (type == "Digits") {
    BATON_ASSIGN(const bool individual, node.flag("individual_digits", false));
    Step& step = steps_.emplace_back();
    step.is_digits = true;
    step.behavior = individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
  } else if (type == "Metaspace") {
    const auto is_metaspace = [](const Step& step) { return step.metaspace.has_value(); };
    if (std::any_of(steps_.begin(), steps_.end(), is_metaspace)) return node.refuse("a second Metaspace");
    BATON_ASSIGN(steps_.emplace_back(), read_metaspace(node));
  } else {
    return node.refuse("pre-tokenizer \"{}\" is not supported (Split, Digits, Metaspace, ByteLevel, Sequence are)",
                       type);
  }
  return {};
}

Result<PreTokenizer::Step> PreTokenizer::read_split(const JsonNode& node) {
  BATON_ASSIGN(const JsonNode pattern, node.member("pattern"));
  BATON_ASSIGN(const JsonNode behavior, node.member("behavior"));
  Step step;
  BATON_ASSIGN(step.behavior, behavior_of(behavior));
  BATON_ASSIGN(step.invert, node.flag("invert", false));
  const bool is_regex = pattern.has("Regex");
  BATON_ASSIGN(const JsonNode source, pattern.member(is_regex ? "Regex" : "String"));
  BATON_ASSIGN(const std::string_view text, source.string());
  auto regex = is_regex ? Regex::from_onig(text) : Regex::from_literal(text);
  if (!regex) return source.refuse("{}", regex.error().message);
  step.regex = std::move(regex).value();
  return step;
}

Result<PreTokenizer::Step> PreTokenizer::read_byte_level(const JsonNode& node) {
  Step step;
  step.is_byte_level = true;
  BATON_ASSIGN(step.add_prefix_space, node.flag("add_prefix_space", true));
  BATON_ASSIGN(const bool use_regex, node.flag("use_regex", true));
  if (use_regex) {
    BATON_ASSIGN(step.regex, Regex::from_onig(kGpt2Pattern));
  }
  return step;
}

Result<PreTokenizer::Step> PreTokenizer::read_metaspace(const JsonNode& node) {
  Step step;
  BATON_ASSIGN(step.metaspace, Metaspace::from_json(node));
  step.behavior = SplitBehavior::kMergedWithNext;
  if (step.metaspace->split) {
    BATON_ASSIGN(step.regex, Regex::from_literal(step.metaspace->replacement));
  }
  return step;
}

Status PreTokenizer::cut(std::string_view text, bool begins, Pieces& pieces, EncodeBudget& budget,
                         bool each_is_a_token) const {
  std::vector<std::string_view> current = {text};
  std::vector<std::string_view> next;
  for (const Step& step : steps_) {
    next.clear();
    for (const std::string_view piece : current) {
      if (piece.empty()) continue;
      const std::string_view changed = prepared(step, piece, begins && piece.data() == text.data(), pieces);
      BATON_TRY(cut_one(step, changed, next, budget, each_is_a_token && step.keeps_all));
    }
    std::swap(current, next);
  }
  pieces.views.insert(pieces.views.end(), current.begin(), current.end());
  return {};
}

std::string_view PreTokenizer::prepared(const Step& step, std::string_view piece, bool begins, Pieces& storage) {
  if (step.add_prefix_space && piece.front() != ' ') return storage.storage.emplace_back(" " + std::string(piece));
  if (!step.metaspace) return piece;
  const auto& [replacement, prepend, split] = *step.metaspace;
  std::string text = replace_all(piece, " ", replacement);
  const bool prepends = prepend == Metaspace::Prepend::kAlways || (prepend == Metaspace::Prepend::kFirst && begins);
  if (prepends && !text.starts_with(replacement)) text.insert(0, replacement);
  return storage.storage.emplace_back(std::move(text));
}

Status PreTokenizer::cut_one(const Step& step, std::string_view piece, std::vector<std::string_view>& out,
                             EncodeBudget& budget, bool each_is_a_token) {
  if (!budget.spend(piece.size())) return budget.status();
  if (!step.regex && !step.is_digits) {
    out.push_back(piece);
    return {};
  }
  std::vector<TextRange> matches;
  if (step.regex) {
    BATON_ASSIGN(matches, step.regex->find_all(piece, budget, each_is_a_token));
  } else {
    matches = find_numeric_characters(piece);
  }
  std::vector<SplitPart> parts = parts_between(matches, piece.size());
  if (step.invert) {
    for (SplitPart& part : parts) part.is_match = !part.is_match;
  }
  for (const TextRange& range : apply_behavior(parts, step.behavior)) {
    if (range.begin < range.end) out.push_back(piece.substr(range.begin, range.end - range.begin));
  }
  return {};
}

}  // namespace baton::text
