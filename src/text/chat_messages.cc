#include <boost/json/parse.hpp>
#include <boost/json/string.hpp>

#include <algorithm>
#include <string>
#include <utility>

#include "jinja/format.h"
#include "jinja/from_json.h"
#include "text/chat_template.h"

namespace baton::text {
namespace {

// The text of a list of content parts, or an error if one of them is no text.
Result<std::string> join_parts(const boost::json::array& parts, std::size_t message) {
  std::string out;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const boost::json::object* part = parts[i].if_object();
    if (part == nullptr) {
      return error(ErrorCode::kInvalidArgument, "messages[{}].content[{}] is not an object", message, i);
    }
    const boost::json::value* type = part->if_contains("type");
    const boost::json::value* text = part->if_contains("text");
    if (type != nullptr && (!type->is_string() || type->get_string() != "text")) {
      return error(ErrorCode::kInvalidArgument, "messages[{}].content[{}] has type {}; this model takes \"text\" only",
                   message, i, type->is_string() ? std::string(type->get_string()) : "other than a string");
    }
    if (text == nullptr || !text->is_string()) {
      return error(ErrorCode::kInvalidArgument, "messages[{}].content[{}].text is not a string", message, i);
    }
    if (i > 0) out += ' ';
    out += std::string_view(text->get_string());
  }
  return out;
}

Status convert_arguments(boost::json::object& function, bool as_text, const std::string& where) {
  boost::json::value* arguments = function.if_contains("arguments");
  if (arguments == nullptr || arguments->is_null()) {
    function["arguments"] = as_text ? boost::json::value("{}") : boost::json::value(boost::json::object());
    return {};
  }
  if (arguments->is_string() == as_text) return {};
  if (as_text) {
    try {
      *arguments = boost::json::string(jinja::to_json(jinja::from_json(*arguments), {}));
    } catch (const jinja::Failure& failure) {
      return error(ErrorCode::kInvalidArgument, "{}: {}", where, failure.message);
    }
    return {};
  }
  const boost::json::string& text = arguments->get_string();
  boost::system::error_code code;
  boost::json::value parsed = text.empty() ? boost::json::value(boost::json::object()) : boost::json::parse(text, code);
  if (code) return error(ErrorCode::kInvalidArgument, "{} is not valid JSON: {}", where, code.message());
  if (!parsed.is_object()) return error(ErrorCode::kInvalidArgument, "{} is not a JSON object", where);
  *arguments = std::move(parsed);
  return {};
}

Status convert_tool_calls(boost::json::value& calls, bool as_text, std::size_t message) {
  boost::json::array* list = calls.if_array();
  if (list == nullptr) return error(ErrorCode::kInvalidArgument, "messages[{}].tool_calls is not a list", message);
  for (std::size_t i = 0; i < list->size(); ++i) {
    boost::json::object* call = (*list)[i].if_object();
    boost::json::value* function = call == nullptr ? nullptr : call->if_contains("function");
    if (function == nullptr || !function->is_object()) {
      return error(ErrorCode::kInvalidArgument, "messages[{}].tool_calls[{}].function is not an object", message, i);
    }
    BATON_TRY(convert_arguments(function->get_object(), as_text,
                                fmt::format("messages[{}].tool_calls[{}].function.arguments", message, i)));
  }
  return {};
}

Status convert_content(boost::json::object& message, bool has_calls, const MessageForm& form, std::size_t index) {
  boost::json::value* content = message.if_contains("content");
  if (content != nullptr && content->is_array()) {
    BATON_ASSIGN(std::string text, join_parts(content->get_array(), index));
    if (!form.content_parts) *content = boost::json::string(text);
  } else if (content != nullptr && !content->is_null() && !content->is_string()) {
    return error(ErrorCode::kInvalidArgument, "messages[{}].content is neither a string nor a list of parts", index);
  }
  const bool is_null = content == nullptr || content->is_null();
  const bool is_empty = !is_null && content->is_string() && content->get_string().empty();
  if (!is_null && !is_empty) return {};
  const bool as_null = has_calls && (is_null ? form.null_content : !form.empty_content && form.null_content);
  message["content"] = as_null ? boost::json::value(nullptr) : boost::json::value("");
  return {};
}

Result<boost::json::object> normalise_message(const boost::json::value& value, const MessageForm& form,
                                              std::size_t index) {
  const boost::json::object* given = value.if_object();
  if (given == nullptr) return error(ErrorCode::kInvalidArgument, "messages[{}] is not an object", index);
  boost::json::object message;
  for (const auto& [key, field] : *given) {
    const bool empty_calls = key == "tool_calls" && field.is_array() && field.get_array().empty();
    if (!field.is_null() && !empty_calls) message[key] = field;
  }
  boost::json::value* role = message.if_contains("role");
  if (role == nullptr || !role->is_string()) {
    return error(ErrorCode::kInvalidArgument, "messages[{}].role is not a string", index);
  }
  for (char& c : role->get_string()) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  boost::json::value* calls = message.if_contains("tool_calls");
  if (calls != nullptr) BATON_TRY(convert_tool_calls(*calls, form.arguments_text, index));
  BATON_TRY(convert_content(message, calls != nullptr, form, index));
  return message;
}

}  // namespace

Result<boost::json::array> normalise_messages(const boost::json::array& messages, const MessageForm& form) {
  if (messages.empty())
    return error(ErrorCode::kInvalidArgument, "messages is empty; at least one message is required");
  boost::json::array out;
  out.reserve(messages.size());
  for (std::size_t i = 0; i < messages.size(); ++i) {
    BATON_ASSIGN(boost::json::object message, normalise_message(messages[i], form, i));
    out.emplace_back(std::move(message));
  }
  return out;
}

}  // namespace baton::text
