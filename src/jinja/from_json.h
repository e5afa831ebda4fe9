// Values from and to Boost.JSON.
#pragma once

#include <boost/json/value.hpp>

#include "jinja/value.h"

namespace baton::jinja {

// Fails when it is nested deeper than kNestingMax.
[[nodiscard]] Value from_json(const boost::json::value& value);
[[nodiscard]] Dict from_json(const boost::json::object& object);

}  // namespace baton::jinja
