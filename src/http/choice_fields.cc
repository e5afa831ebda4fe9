#include "http/choice_fields.h"

#include <limits>
#include <map>
#include <set>

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

// One room for the call stands for as many in a row, one for a prompt for as many as it has samples: both legs count
// alike, as SGLang's do.
Result<AttemptId> read_room(const json::value& room, bool fake, size_t choice, const ApiRequest& request) {
  const size_t choices = request.choices.size();
  const json::value* mine = entry_for(room, choice, choices, request.samples);
  size_t ahead = choice;
  if (room.is_array()) ahead = room.as_array().size() == choices ? 0 : choice % static_cast<size_t>(request.samples);
  if (fake) ahead = 0;
  const int64_t room_max = std::numeric_limits<int64_t>::max() - static_cast<int64_t>(ahead);
  if (mine == nullptr || !mine->is_int64() || mine->as_int64() < (fake ? 0 : 1) || mine->as_int64() > room_max) {
    return error(ErrorCode::kInvalidArgument,
                 "bootstrap_room: must be an integer from 1 to 2^63-1, the first of one for each of the {} sequences, "
                 "or a list",
                 choices);
  }
  return AttemptId(static_cast<uint64_t>(mine->as_int64()) + ahead);
}

// A scalar, or a list of one for each prompt.
Result<std::string> read_name(const json::object& body, const char* name, size_t choice, const ApiRequest& request) {
  const json::value* value = find_field(body, name);
  if (value == nullptr) return std::string();
  const json::value* mine = entry_for(*value, choice, request.choices.size(), request.samples);
  if (mine == nullptr || !mine->is_string())
    return error(ErrorCode::kInvalidArgument, "{}: must be a string, or a list of one for each prompt", name);
  if (mine->as_string().size() > kNameBytesMax) {
    return error(ErrorCode::kInvalidArgument, "{}: {} bytes; at most {} are allowed", name, mine->as_string().size(),
                 kNameBytesMax);
  }
  return std::string(mine->as_string());
}

// Decode's is routed_dp_rank, whose old name is data_parallel_rank; prefill has its own, since it may have fewer.
Status read_ranks(const json::object& body, engine::Role role, ApiRequest* request) {
  const bool prefill = role == engine::Role::kPrefill;
  for (const char* name : {"data_parallel_rank", "routed_dp_rank", "disagg_prefill_dp_rank"}) {
    BATON_ASSIGN(auto rank, int_field(body, name, 0, 1 << 20));
    if (!rank || prefill != (name == std::string_view("disagg_prefill_dp_rank"))) continue;
    for (ChoiceRequest& choice : request->choices) choice.engine.dp_rank = static_cast<int>(*rank);
  }
  return {};
}

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
  std::set<uint64_t> rooms;
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
    BATON_ASSIGN(d.room, read_room(*room, d.fake, i, *request));
    if (!d.fake && !rooms.insert(d.room.value()).second) {
      return error(ErrorCode::kInvalidArgument,
                   "bootstrap_room: {} stands for two of the {} sequences; each needs its own", d.room.value(),
                   choices);
    }
    request->choices[i].engine.disaggregation = std::move(d);
  }
  return {};
}

std::string fresh_id() { return fmt::format("{:016x}{:016x}", entropy(), entropy()); }

}  // namespace

Status read_routing(const json::object& body, engine::Role role, ApiRequest* request) {
  BATON_TRY(read_ranks(body, role, request));
  for (size_t i = 0; i < request->choices.size(); ++i) {
    BATON_ASSIGN(std::string salt, read_name(body, "cache_salt", i, *request));
    BATON_ASSIGN(const std::string extra, read_name(body, "extra_key", i, *request));
    if (!extra.empty()) salt += '\0' + extra;  // two keys are never one
    request->choices[i].engine.cache_salt = std::move(salt);
  }
  BATON_ASSIGN(auto priority, int_field(body, "priority", INT32_MIN, INT32_MAX));
  for (ChoiceRequest& choice : request->choices) {
    if (priority) choice.engine.priority = static_cast<int>(*priority);
  }
  return read_disaggregation(body, role, request);
}

Status read_rids(const json::object& body, const char* prefix, ApiRequest* request) {
  const json::value* rid = find_field(body, "rid");
  BATON_ASSIGN(const auto own, string_field(body, "request_id"));
  if (own && own->size() > kNameBytesMax) {
    return error(ErrorCode::kInvalidArgument, "request_id: {} bytes; at most {} are allowed", own->size(),
                 kNameBytesMax);
  }
  request->id = prefix + (own && !own->empty() ? *own : fresh_id());
  const size_t choices = request->choices.size();
  std::map<std::string, const json::value*> given;
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
      if (given.emplace(name, entry).first->second != entry) {
        return error(ErrorCode::kInvalidArgument, "rid: Duplicate request ID detected within the call: {} is of two",
                     name);
      }
    }
    if (i == 0 && (rid == nullptr || !rid->is_array())) request->id = name;
    const bool shared = choices > 1 && (rid == nullptr || !rid->is_array() || rid->as_array().size() != choices);
    request->choices[i].engine.rid = shared ? fmt::format("{}-{}", name, i) : name;
    if (shared) request->choices[i].engine.call = name;
  }
  return {};
}

}  // namespace baton::http
