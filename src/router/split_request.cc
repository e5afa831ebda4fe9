#include "router/split_request.h"

#include "http/json.h"

namespace baton {
namespace {
namespace json = boost::json;

bool is_true(const json::object& object, std::string_view name) {
  const json::value* value = find_field(object, name);
  return value != nullptr && value->is_bool() && value->as_bool();
}

size_t positive(const json::object& object, std::string_view name) {
  const json::value* value = find_field(object, name);
  return value != nullptr && value->is_int64() && value->as_int64() > 0 && value->as_int64() <= 4096
             ? static_cast<size_t>(value->as_int64())
             : 1;
}

// Prompts in a field that is a string, a list of strings, ids, or a list of id lists.
size_t prompts_in(const json::value* value, bool* list) {
  *list = value != nullptr && value->is_array() && !value->as_array().empty() && !value->as_array().front().is_number();
  return *list ? value->as_array().size() : 1;
}

// Appends decode's list after prefill's in an object's field, if prefill has one.
void prepend(json::object& decode, const json::object& prefill, std::string_view field) {
  const json::value* head = prefill.if_contains(field);
  if (head == nullptr || !head->is_array() || head->as_array().empty()) return;
  json::array merged = head->as_array();
  if (const json::value* tail = decode.if_contains(field); tail != nullptr && tail->is_array()) {
    for (const json::value& entry : tail->as_array()) merged.push_back(entry);
  }
  decode[field] = std::move(merged);
}

void merge_generate(json::object& decode, const json::object& prefill) {
  json::value* to = decode.if_contains("meta_info");
  const json::value* from = prefill.if_contains("meta_info");
  if (to == nullptr || from == nullptr || !to->is_object() || !from->is_object()) return;
  prepend(to->as_object(), from->as_object(), "input_token_logprobs");
  prepend(to->as_object(), from->as_object(), "input_top_logprobs");
}

// The prefill leg generated one token, and its text and logprob are decode's first too: only what stands before it is
// taken.
void merge_completion(json::object& decode, const json::object& prefill) {
  json::value* to = decode.if_contains("choices");
  const json::value* from = prefill.if_contains("choices");
  if (to == nullptr || from == nullptr || !to->is_array() || !from->is_array()) return;
  for (json::value& choice : to->as_array()) {
    for (const json::value& source : from->as_array()) {
      if (!choice.is_object() || !source.is_object() || choice.as_object()["index"] != source.at("index")) continue;
      json::value* d = choice.as_object().if_contains("logprobs");
      const json::value* p = source.as_object().if_contains("logprobs");
      if (d == nullptr || p == nullptr || !d->is_object() || !p->is_object()) continue;
      int64_t shift = 0;
      if (const json::value* tokens = p->as_object().if_contains("tokens"); tokens != nullptr && tokens->is_array()) {
        for (const json::value& token : tokens->as_array())
          shift += token.is_string() ? static_cast<int64_t>(token.as_string().size()) : 0;
      }
      if (json::value* offsets = d->as_object().if_contains("text_offset"); offsets != nullptr && offsets->is_array()) {
        for (json::value& offset : offsets->as_array()) offset = offset.to_number<int64_t>() + shift;
      }
      for (const char* field : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
        prepend(d->as_object(), p->as_object(), field);
    }
  }
}

}  // namespace

RequestTraits inspect_request(std::string_view path, const json::object& body) {
  RequestTraits traits;
  traits.stream = is_true(body, "stream");
  bool list = false;
  if (path == "/generate") {
    const json::value* text = find_field(body, "text");
    traits.sequences = prompts_in(text != nullptr ? text : find_field(body, "input_ids"), &list);
    if (const json::value* sampling = find_field(body, "sampling_params");
        sampling != nullptr && sampling->is_object()) {
      const size_t n = positive(sampling->as_object(), "n");
      traits.sequences *= n;
      list = list || n > 1;
    }
    const json::value* logprob = find_field(body, "return_logprob");
    traits.merge_logprobs = logprob != nullptr && (logprob->is_array() || (logprob->is_bool() && logprob->as_bool()));
  } else {
    const size_t n = positive(body, "n");
    traits.sequences = (path == "/v1/completions" ? prompts_in(find_field(body, "prompt"), &list) : 1) * n;
    list = list || n > 1;
    traits.merge_logprobs =
        path == "/v1/completions" && is_true(body, "echo") && find_field(body, "logprobs") != nullptr;
  }
  traits.batch = list;
  return traits;
}

std::string pair_body(json::object body, const RequestTraits& traits, std::string_view host, int port,
                      const std::vector<AttemptId>& rooms) {
  const auto room = [](AttemptId id) { return json::value(static_cast<int64_t>(id.value())); };
  if (traits.batch) {
    json::array hosts, ports, list;
    for (const AttemptId id : rooms) {
      hosts.emplace_back(host);
      ports.emplace_back(port);
      list.push_back(room(id));
    }
    body["bootstrap_host"] = std::move(hosts);
    body["bootstrap_port"] = std::move(ports);
    body["bootstrap_room"] = std::move(list);
  } else {
    body["bootstrap_host"] = host;
    body["bootstrap_port"] = port;
    body["bootstrap_room"] = room(rooms.front());
  }
  return json::serialize(body);
}

std::string merge_logprobs(std::string_view path, std::string_view prefill_body, std::string_view decode_body) {
  boost::system::error_code bad_prefill, bad_decode;
  const json::value prefill = json::parse(json::string_view(prefill_body.data(), prefill_body.size()), bad_prefill);
  json::value decode = json::parse(json::string_view(decode_body.data(), decode_body.size()), bad_decode);
  if (bad_prefill || bad_decode) return std::string(decode_body);
  if (path == "/generate" && decode.is_array() && prefill.is_array()) {
    for (size_t i = 0; i < std::min(decode.as_array().size(), prefill.as_array().size()); ++i) {
      json::value& d = decode.as_array()[i];
      const json::value& p = prefill.as_array()[i];
      if (d.is_object() && p.is_object()) merge_generate(d.as_object(), p.as_object());
    }
  } else if (decode.is_object() && prefill.is_object()) {
    if (path == "/generate") {
      merge_generate(decode.as_object(), prefill.as_object());
    } else {
      merge_completion(decode.as_object(), prefill.as_object());
    }
  }
  return json::serialize(decode);
}

}  // namespace baton
