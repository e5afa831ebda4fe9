// The body that both legs of a request get, and one answer from what they say. Pure.
#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <map>
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
  // The prefill leg's answer holds the prompt's logprobs, which must stand in front of decode's.
  bool merge_logprobs = false;
};

// `path`: "/generate", "/v1/completions" or "/v1/chat/completions".
RequestTraits inspect_request(std::string_view path, const boost::json::object& body);

// The body as text, without its last brace and without bootstrap_host, bootstrap_port and bootstrap_room, whatever the
// client put there: peers come from the control plane and never from clients.
std::string common_body(boost::json::object body);
// What makes a try's body of the common one: the three fields and the brace.
std::string pair_body_end(std::string_view common, const RequestTraits& traits, std::string_view host, int port,
                          const std::vector<AttemptId>& rooms);

// Puts the prompt's logprobs, which only prefill knows, in front of decode's.
class LogprobMerger {
 public:
  // `prefill_body`: the leg's whole answer, JSON or the events of a stream. What is not JSON counts for nothing.
  LogprobMerger(std::string_view path, std::string_view prefill_body);
  // Decode's whole answer, or the JSON of its next event; given back as it is where there is nothing to merge. Events
  // of /generate are cumulative and get the prompt's part each, those of completions with the first of each choice.
  std::string merge(std::string_view decode_json);

 private:
  void learn(const boost::json::value& answer);
  void prepend(boost::json::object* decode, int64_t index) const;

  const bool generate_;
  std::map<int64_t, boost::json::object> prompts_;  // by choice: prefill's meta_info or logprobs
  std::set<int64_t> begun_;                         // choices of completions that have theirs
};

}  // namespace baton::router
