#include "router/split_request.h"

#include "http/json.h"

namespace baton::router {
namespace {
namespace json = boost::json;

bool is_true(const json::object& object, std::string_view name) {
  const auto value = http::bool_field(object, name);
  return value && value->value_or(false);
}

// The instances refuse what is out of range.
size_t samples_in(const json::object& object) {
  const auto n = http::int_field(object, "n", 1, 128);
  return n ? static_cast<size_t>(n->value_or(1)) : 1;
}

// Prompts in a field that is a string, a list of strings, ids, or a list of id lists.
size_t prompts_in(const json::value* value, bool* list) {
  *list = value != nullptr && value->is_array() && !value->as_array().empty() && !value->as_array().front().is_number();
  return *list ? value->as_array().size() : 1;
}

}  // namespace

RequestTraits inspect_request(std::string_view path, const json::object& body) {
  RequestTraits traits;
  traits.stream = is_true(body, "stream");
  bool list = false;
  if (path == "/generate") {
    const json::value* text = http::find_field(body, "text");
    traits.sequences = prompts_in(text != nullptr ? text : http::find_field(body, "input_ids"), &list);
    const json::value* sampling = http::find_field(body, "sampling_params");
    if (sampling != nullptr && sampling->is_array() && !sampling->as_array().empty())
      sampling = &sampling->as_array().front();  // n is the same in all
    if (sampling != nullptr && sampling->is_object()) {
      const size_t n = samples_in(sampling->as_object());
      traits.sequences *= n;
      list = list || n > 1;
    }
  } else {
    const size_t n = samples_in(body);
    traits.sequences = (path == "/v1/completions" ? prompts_in(http::find_field(body, "prompt"), &list) : 1) * n;
    list = list || n > 1;
  }
  traits.batch = list;
  return traits;
}

std::set<std::string> names_in(std::string_view path, const json::object& body) {
  std::set<std::string> names;
  const auto add = [&](const json::value& name) {
    if (name.is_string() && !name.as_string().empty()) names.emplace(name.as_string());
  };
  if (const json::value* rid = http::find_field(body, "rid")) {
    if (rid->is_array()) {
      for (const json::value& each : rid->as_array()) add(each);
    } else {
      add(*rid);
    }
  }
  const json::value* own = http::find_field(body, "request_id");
  if (names.empty() && path != "/generate" && own != nullptr && own->is_string() && !own->as_string().empty())
    names.emplace((path == "/v1/completions" ? "cmpl-" : "chatcmpl-") + std::string(own->as_string()));
  return names;
}

std::string common_body(json::object body) {
  for (const char* field : {"bootstrap_host", "bootstrap_port", "bootstrap_room"}) body.erase(field);
  std::string text = json::serialize(body);
  text.pop_back();
  return text;
}

std::string pair_body_end(std::string_view common, const RequestTraits& traits, std::string_view host, int port,
                          const std::vector<AttemptId>& rooms) {
  const auto room = [](AttemptId id) { return json::value(static_cast<int64_t>(id.value())); };
  json::object fields;
  if (traits.batch) {
    json::array hosts, ports, list;
    for (const AttemptId id : rooms) {
      hosts.emplace_back(host);
      ports.emplace_back(port);
      list.push_back(room(id));
    }
    fields["bootstrap_host"] = std::move(hosts);
    fields["bootstrap_port"] = std::move(ports);
    fields["bootstrap_room"] = std::move(list);
  } else {
    fields["bootstrap_host"] = host;
    fields["bootstrap_port"] = port;
    fields["bootstrap_room"] = room(rooms.front());
  }
  return (common == "{" ? "" : ",") + json::serialize(fields).substr(1);
}

}  // namespace baton::router
