#include "http/field_list.h"

#include <algorithm>
#include <unordered_map>

namespace baton::http {
namespace json = boost::json;
namespace {

constexpr FieldDeed kDone = FieldDeed::kDone, kNoEffect = FieldDeed::kNoEffect, kRefused = FieldDeed::kRefused;

constexpr FieldRow kRows[] = {
#define FIELD(where, name, deed, off, why) {where, name, deed, off, why},
#include "http/compatibility.inc"
};

// Of every refused field's name, its rows: most bodies have none of them.
const std::unordered_multimap<std::string_view, const FieldRow*>& refused_rows() {
  static const auto rows = [] {
    std::unordered_multimap<std::string_view, const FieldRow*> made;
    for (const FieldRow& row : kRows) {
      if (row.deed == kRefused) made.emplace(row.name, &row);
    }
    return made;
  }();
  return rows;
}

// No more than kJsonDepthMax levels: a parsed body.
bool is_off(const json::value& value, const FieldRow& row) {
  if (asks_for_nothing(value)) return true;
  if (row.off.empty()) return false;
  const json::value off = json::parse(row.off);
  if (off.is_number() && value.is_number()) return off.to_number<double>() == value.to_number<double>();
  return off == value;
}

}  // namespace

bool asks_for_nothing(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return true;
    case json::kind::bool_:
      return !value.get_bool();
    case json::kind::string:
      return value.get_string().empty();
    case json::kind::array:
      return std::all_of(value.get_array().begin(), value.get_array().end(), asks_for_nothing);
    case json::kind::object:
      return std::all_of(value.get_object().begin(), value.get_object().end(),
                         [](const json::key_value_pair& entry) { return asks_for_nothing(entry.value()); });
    default:
      return false;
  }
}

std::span<const FieldRow> field_rows() { return kRows; }

FieldPlace place_of(ApiKind kind) {
  switch (kind) {
    case ApiKind::kGenerate:
      return kGenerate;
    case ApiKind::kCompletion:
      return kCompletions;
    case ApiKind::kChat:
      return kChat;
  }
  return kGenerate;
}

Status refuse_fields(const json::object& object, FieldPlace place) {
  const auto& refused = refused_rows();
  for (const auto& [key, value] : object) {
    const auto [first, last] = refused.equal_range(std::string_view(key));
    for (auto row = first; row != last; ++row) {
      if ((row->second->where & place) == 0 || is_off(value, *row->second)) continue;
      return error(ErrorCode::kInvalidArgument, "{}: {} not supported by this server; leave it out", row->second->name,
                   row->second->why);
    }
  }
  return {};
}

}  // namespace baton::http
