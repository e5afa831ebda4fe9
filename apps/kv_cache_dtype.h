// --kv-cache-dtype: the element type of KV pages, by the names that people know from other servers.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

#include "tensor/dtype.h"

namespace baton::apps {

void add_kv_cache_dtype(CLI::App& app, std::string& value);
// `float32`: --dtype is, which auto follows.
[[nodiscard]] tensor::DType kv_cache_dtype(std::string_view value, bool float32);

}  // namespace baton::apps
