#include "http/choice_fields.h"

#include <algorithm>
#include <vector>

#include "base/random.h"
#include "http/json.h"

namespace baton::http {
namespace json = boost::json;

const json::value* entry_for(const json::value& value, size_t choice, size_t choices, int samples) {
  if (!value.is_array()) return &value;
  const json::array& list = value.as_array();
  if (list.size() == choices) return &list[choice];
  if (list.size() * static_cast<size_t>(samples) == choices) return &list[choice / static_cast<size_t>(samples)];
  return nullptr;
}

namespace {

Status read_disaggregation(const json::object& body, engine::Role role, ApiRequest* request) {
  const json::value* room = find_field(body, "bootstrap_room");
  const json::value* host = find_field(body, "bootstrap_host");
  const json::value* port = find_field(body, "bootstrap_port");
  if (role == engine::Role::kUnified) return {};
  if (room == nullptr) {
    return error(ErrorCode::kInvalidArgument,
                 "bootstrap_room: missing; this is a {} instance, it serves requests that a router has paired (send "
                 "them to the router)",
                 engine::role_name(role));
  }
  const size_t choices = request->choices.size();
  std::vector<uint64_t> rooms;
  for (size_t i = 0; i < choices; ++i) {
    engine::Disaggregation d;
    const json::value* my_host = host == nullptr ? nullptr : entry_for(*host, i, choices, request->samples);
    if (my_host != nullptr && !my_host->is_null()) {
      if (!my_host->is_string() || my_host->as_string().size() > kNameBytesMax) {
        return error(ErrorCode::kInvalidArgument,
                     "bootstrap_host: must be a string of at most {} bytes, or a list of one for each of the {} "
                     "sequences",
                     kNameBytesMax, choices);
      }
      d.bootstrap_host = std::string(my_host->as_string());
    }
    if (d.bootstrap_host.starts_with('[') && d.bootstrap_host.ends_with(']'))
      d.bootstrap_host = d.bootstrap_host.substr(1, d.bootstrap_host.size() - 2);
    d.fake = d.bootstrap_host == "2.2.2.2";
    const json::value* my_port = port == nullptr ? nullptr : entry_for(*port, i, choices, request->samples);
    if (my_port != nullptr && !my_port->is_null()) {
      if (!my_port->is_int64() || my_port->as_int64() < 1 || my_port->as_int64() > 65535) {
        return error(ErrorCode::kInvalidArgument, "bootstrap_port: must be null or a port from 1 to 65535");
      }
      d.bootstrap_port = static_cast<int>(my_port->as_int64());
    } else {
      d.bootstrap_port = 8998;  // --disaggregation-bootstrap-port's default
    }
    const json::value* my_room = entry_for(*room, i, choices, request->samples);
    if (my_room == nullptr || !my_room->is_int64() || my_room->as_int64() < (d.fake ? 0 : 1)) {
      return error(ErrorCode::kInvalidArgument,
                   "bootstrap_room: must be an integer from 1 to 2^63-1, or a list of one for each of the {} sequences",
                   choices);
    }
    d.room = AttemptId(static_cast<uint64_t>(my_room->as_int64()));
    if (!d.fake && std::find(rooms.begin(), rooms.end(), d.room.value()) != rooms.end()) {
      return error(ErrorCode::kInvalidArgument,
                   "bootstrap_room: {} stands for two of the {} sequences; each needs its own", d.room.value(),
                   choices);
    }
    rooms.push_back(d.room.value());
    request->choices[i].engine.disaggregation = std::move(d);
  }
  return {};
}

std::string fresh_id() { return fmt::format("{:016x}{:016x}", entropy(), entropy()); }

}  // namespace

Status read_routing(const json::object& body, engine::Role role, ApiRequest* request) {
  for (const char* name : {"routed_dp_rank", "data_parallel_rank",
                           role == engine::Role::kPrefill ? "disagg_prefill_dp_rank" : "routed_dp_rank"}) {
    BATON_ASSIGN(auto rank, int_field(body, name, 0, 1 << 20));
    if (!rank) continue;
    for (ChoiceRequest& choice : request->choices) choice.engine.dp_rank = static_cast<int>(*rank);
  }
  BATON_ASSIGN(auto priority, int_field(body, "priority", INT32_MIN, INT32_MAX));
  for (ChoiceRequest& choice : request->choices) {
    if (priority) choice.engine.priority = static_cast<int>(*priority);
  }
  BATON_ASSIGN(auto salt, string_field(body, "cache_salt"));
  if (salt && salt->size() > kNameBytesMax) {
    return error(ErrorCode::kInvalidArgument, "cache_salt: {} bytes; at most {} are allowed", salt->size(),
                 kNameBytesMax);
  }
  for (ChoiceRequest& choice : request->choices) choice.engine.cache_salt = salt.value_or("");
  return read_disaggregation(body, role, request);
}

Status read_rids(const json::object& body, const char* prefix, ApiRequest* request) {
  const json::value* rid = find_field(body, "rid");
  request->id = prefix + fresh_id();
  const size_t choices = request->choices.size();
  for (size_t i = 0; i < choices; ++i) {
    std::string name = request->id;
    if (rid != nullptr) {
      const json::value* entry = entry_for(*rid, i, choices, request->samples);
      if (entry == nullptr || !entry->is_string() || entry->as_string().size() > kNameBytesMax) {
        return error(ErrorCode::kInvalidArgument,
                     "rid: must be a string of at most {} bytes, or a list of one for each of the {} prompts",
                     kNameBytesMax, choices);
      }
      if (!entry->as_string().empty()) name = std::string(entry->as_string());
    }
    if (i == 0 && (rid == nullptr || !rid->is_array())) request->id = name;
    const bool shared = choices > 1 && (rid == nullptr || !rid->is_array() || rid->as_array().size() != choices);
    request->choices[i].engine.rid = shared ? fmt::format("{}-{}", name, i) : name;
    if (shared) request->choices[i].engine.call = name;
  }
  return {};
}

}  // namespace baton::http
