#include "model/golden.h"

#include <algorithm>

#include "model/json_fields.h"

namespace baton::model {

namespace json = boost::json;

namespace {

constexpr size_t kIdsMax = 1 << 20;

std::vector<float> numbers(JsonFields& fields, std::string_view name, const json::value& value) {
  std::vector<float> list;
  if (value.is_array()) {
    for (const json::value& v : value.get_array()) {
      if (v.is_number()) list.push_back(static_cast<float>(v.to_number<double>()));
    }
  }
  if (!value.is_array() || list.empty() || list.size() != value.get_array().size()) {
    fields.fail(error(ErrorCode::kCorrupt, "{}: {} is not a list of numbers", fields.where(), name));
  }
  return list;
}

GoldenRow read_top_row(JsonFields& outer, const json::value& value) {
  GoldenRow row;
  if (!value.is_object()) {
    outer.fail(error(ErrorCode::kCorrupt, "{}: a row of top8_per_step is not an object", outer.where()));
    return row;
  }
  JsonFields fields(value.get_object(), outer.where() + ": top8_per_step");
  row.ids = fields.ids("ids", kIdsMax);
  if (const json::value* logits = fields.find("logits")) row.logits = numbers(fields, "logits", *logits);
  row.logsumexp = fields.number("logsumexp", -1e9, 1e9);
  if (row.ids.empty() || row.ids.size() != row.logits.size()) {
    fields.fail(
        error(ErrorCode::kCorrupt, "{}: {} ids for {} logits", fields.where(), row.ids.size(), row.logits.size()));
  }
  if (Status status = fields.status(); !status) outer.fail(status.error());
  return row;
}

Result<GoldenCase> read_case(const json::value& value, const std::string& where, int vocab) {
  if (!value.is_object()) return error(ErrorCode::kCorrupt, "{}: not an object", where);
  JsonFields fields(value.get_object(), where);
  GoldenCase c;
  c.prompt_ids = fields.ids("prompt_ids", kIdsMax);
  c.greedy_ids = fields.ids("greedy_ids", kIdsMax);
  if (const json::value* all = fields.find("logits_per_step"); all != nullptr && all->is_array()) {
    for (const json::value& v : all->get_array()) c.rows.push_back({{}, numbers(fields, "logits_per_step", v), {}});
  } else if (const json::value* top = fields.find("top8_per_step"); top != nullptr && top->is_array()) {
    for (const json::value& v : top->get_array()) c.rows.push_back(read_top_row(fields, v));
  }
  BATON_TRY(fields.status());
  if (c.prompt_ids.empty() || c.rows.empty() || c.greedy_ids.size() + 1 < c.rows.size()) {
    return error(ErrorCode::kCorrupt, "{}: {} prompt_ids, {} greedy_ids, {} rows of logits_per_step or top8_per_step",
                 where, c.prompt_ids.size(), c.greedy_ids.size(), c.rows.size());
  }
  const auto known = [vocab](const std::vector<int32_t>& ids) {
    return std::all_of(ids.begin(), ids.end(), [vocab](int32_t id) { return id < vocab; });
  };
  bool fits = known(c.prompt_ids) && known(c.greedy_ids);
  for (const GoldenRow& row : c.rows) {
    fits = fits && known(row.ids) && (!row.ids.empty() || row.logits.size() == static_cast<size_t>(vocab));
  }
  if (!fits) return error(ErrorCode::kIncompatible, "{}: not of a model with a vocabulary of {}", where, vocab);
  return c;
}

}  // namespace

Result<std::vector<GoldenCase>> read_golden(const std::string& path, int vocab) {
  constexpr size_t kBytesMax = size_t{256} << 20;  // logits of whole vocabularies
  BATON_ASSIGN(const json::object root, read_json_object(path, kBytesMax));
  const json::value* list = root.if_contains("cases");
  if (list == nullptr || !list->is_array() || list->get_array().empty()) {
    return error(ErrorCode::kCorrupt, "{}: no cases", path);
  }
  std::vector<GoldenCase> cases;
  for (const json::value& value : list->get_array()) {
    BATON_ASSIGN(GoldenCase c, read_case(value, fmt::format("{}: cases[{}]", path, cases.size()), vocab));
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace baton::model
