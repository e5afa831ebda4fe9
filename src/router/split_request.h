// The body that both legs of a request get: the client's, plus where to meet. Pure.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace baton {

struct RequestTraits {
  size_t sequences = 1;  // rooms that it needs
  bool batch = false;    // rooms go as a list
  bool stream = false;
  // The prefill leg's answer holds the prompt's logprobs, which must stand in front of decode's.
  bool merge_logprobs = false;
};

// `path`: "/generate", "/v1/completions" or "/v1/chat/completions".
RequestTraits inspect_request(std::string_view path, const boost::json::object& body);

// Sets bootstrap_host, bootstrap_port and bootstrap_room; whatever the client put there is overwritten, because peers
// come from the control plane and never from clients.
std::string pair_body(boost::json::object body, const RequestTraits& traits, std::string_view host, int port,
                      const std::vector<AttemptId>& rooms);

// Puts the prefill answer's prompt logprobs in front of decode's. Both are bodies of the same path, or the JSON of one
// stream event. Returns decode's body unchanged where there is nothing to merge.
std::string merge_logprobs(std::string_view path, std::string_view prefill_body, std::string_view decode_body);

}  // namespace baton
