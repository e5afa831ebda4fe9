#include "router/split_request.h"

#include <algorithm>
#include <span>
#include <utility>

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

json::value parse_or_null(std::string_view text) {
  boost::system::error_code bad;
  json::value value = json::parse(json::string_view(text.data(), text.size()), bad);
  return bad ? json::value() : value;
}

const json::object* object_in(const json::value& value, std::string_view field) {
  const json::value* found = value.is_object() ? value.as_object().if_contains(field) : nullptr;
  return found != nullptr && found->is_object() ? &found->as_object() : nullptr;
}
json::object* object_in(json::value& value, std::string_view field) {
  return const_cast<json::object*>(object_in(std::as_const(value), field));
}

int64_t index_of(const json::value& value) {
  const json::value* index = value.is_object() ? value.as_object().if_contains("index") : nullptr;
  return index != nullptr && index->is_int64() ? index->as_int64() : 0;
}

const json::array* choices_of(const json::value& answer) {
  const json::value* choices = answer.is_object() ? answer.as_object().if_contains("choices") : nullptr;
  return choices != nullptr && choices->is_array() ? &choices->as_array() : nullptr;
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
    const json::value* logprob = http::find_field(body, "return_logprob");
    traits.merge_logprobs = logprob != nullptr && (logprob->is_array() || (logprob->is_bool() && logprob->as_bool()));
  } else {
    const size_t n = samples_in(body);
    traits.sequences = (path == "/v1/completions" ? prompts_in(http::find_field(body, "prompt"), &list) : 1) * n;
    list = list || n > 1;
    traits.merge_logprobs =
        path == "/v1/completions" && is_true(body, "echo") && http::find_field(body, "logprobs") != nullptr;
  }
  traits.batch = list;
  return traits;
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

LogprobMerger::LogprobMerger(std::string_view path, std::string_view prefill_body) : generate_(path == "/generate") {
  constexpr std::string_view kData = "data: ";
  if (!prefill_body.starts_with(kData)) learn(parse_or_null(prefill_body));
  while (prefill_body.starts_with(kData)) {
    const size_t end = std::min(prefill_body.find("\n\n"), prefill_body.size());
    learn(parse_or_null(prefill_body.substr(kData.size(), end - kData.size())));
    prefill_body.remove_prefix(std::min(end + 2, prefill_body.size()));
  }
}

void LogprobMerger::learn(const json::value& answer) {
  if (generate_ && answer.is_array()) {
    int64_t position = 0;
    for (const json::value& entry : answer.as_array()) {
      if (const json::object* meta = object_in(entry, "meta_info")) prompts_.emplace(position, *meta);
      ++position;
    }
  } else if (generate_) {
    if (const json::object* meta = object_in(answer, "meta_info")) prompts_.emplace(index_of(answer), *meta);
  } else if (const json::array* choices = choices_of(answer)) {
    for (const json::value& choice : *choices) {
      if (const json::object* logprobs = object_in(choice, "logprobs")) prompts_.emplace(index_of(choice), *logprobs);
    }
  }
}

void LogprobMerger::prepend(json::object* decode, int64_t index) const {
  const auto known = prompts_.find(index);
  if (decode == nullptr || known == prompts_.end()) return;
  static constexpr const char* kGenerate[] = {"input_token_logprobs", "input_top_logprobs"};
  static constexpr const char* kCompletion[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
  for (const char* field : generate_ ? std::span<const char* const>(kGenerate) : std::span(kCompletion)) {
    const json::value* head = known->second.if_contains(field);
    if (head == nullptr || !head->is_array() || head->as_array().empty()) continue;
    json::array merged = head->as_array();
    if (const json::value* tail = decode->if_contains(field); tail != nullptr && tail->is_array())
      merged.insert(merged.end(), tail->as_array().begin(), tail->as_array().end());
    (*decode)[field] = std::move(merged);
  }
}

std::string LogprobMerger::merge(std::string_view decode_json) {
  json::value decode = parse_or_null(decode_json);
  if (decode.is_null() || prompts_.empty()) return std::string(decode_json);
  if (generate_ && decode.is_array()) {
    int64_t position = 0;
    for (json::value& entry : decode.as_array()) prepend(object_in(entry, "meta_info"), position++);
  } else if (generate_) {
    prepend(object_in(decode, "meta_info"), index_of(decode));
  } else if (choices_of(decode) != nullptr) {
    for (json::value& choice : decode.as_object()["choices"].as_array()) {
      if (begun_.insert(index_of(choice)).second) prepend(object_in(choice, "logprobs"), index_of(choice));
    }
  }
  return json::serialize(decode);
}

}  // namespace baton::router
