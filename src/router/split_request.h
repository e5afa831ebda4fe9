// The body that both legs of a request get. Pure.
#pragma once

#include <boost/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace baton::router {

struct RequestTraits {
  size_t sequences = 1;  // rooms that it needs
  bool batch = false;    // rooms go as a list
  bool stream = false;
};

// `path`: "/generate", "/v1/completions" or "/v1/chat/completions".
// How the client names the call, as the instances read it; empty if it does not.
std::set<std::string> names_in(std::string_view path, const boost::json::object& body);
RequestTraits inspect_request(std::string_view path, const boost::json::object& body);

// The body as text, without its last brace and without bootstrap_host, bootstrap_port and bootstrap_room, whatever the
// client put there: peers come from the control plane and never from clients.
std::string common_body(boost::json::object body);
// What makes a try's body of the common one: the three fields and the brace.
std::string pair_body_end(std::string_view common, const RequestTraits& traits, std::string_view host, int port,
                          const std::vector<AttemptId>& rooms);

}  // namespace baton::router
