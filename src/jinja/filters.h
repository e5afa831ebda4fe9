// The filters of a template: what stands behind |.
#pragma once

#include <string>
#include <string_view>

#include "jinja/runtime.h"

namespace baton::jinja {

using FilterRun = Value (*)(const Value& input, const Arguments& arguments);

struct FilterEntry {
  std::string_view name;
  FilterRun run;
};

// nullptr: there is no such filter; no_such_filter() says whether Jinja has it.
[[nodiscard]] const FilterEntry* find_filter(std::string_view name);
[[nodiscard]] std::string no_such_filter(std::string_view name);

// The filters on sequences (filters_sequence.cc) and on text and numbers (filters.cc).
[[nodiscard]] const FilterEntry* find_sequence_filter(std::string_view name);

}  // namespace baton::jinja
