// The fields of a request that each of its choices has: names, routing, where prefill and decode meet.
#pragma once

#include <boost/json.hpp>
#include <cstddef>

#include "http/api_request.h"

namespace baton::http {

// Of a scalar for every choice, or a list with one entry a choice (or a prompt); nullptr if the list has another
// length.
[[nodiscard]] const boost::json::value* entry_for(const boost::json::value& value, size_t choice, size_t choices,
                                                  int samples);

// DP rank, cache salt and, on prefill and decode instances, the bootstrap fields.
Status read_routing(const boost::json::object& body, engine::Role role, ApiRequest* request);

// Names the call and its choices: as the client does, or afresh. Choices that share a name get "-0", "-1" behind it,
// and can be aborted by either.
Status read_rids(const boost::json::object& body, const char* prefix, ApiRequest* request);

}  // namespace baton::http
