#include "http/chat_fields.h"

#include <algorithm>

#include "http/field_list.h"
#include "http/json.h"

namespace baton::http {
namespace json = boost::json;
namespace {

constexpr size_t kTemplateBytesMax = 256 << 10;  // of a request's own template

// Tools are not called here: a request that must have a call cannot be served, one that need not can.
Status check_tools(const json::object& body) {
  const json::value* tools = find_field(body, "tools");
  const json::value* choice = find_field(body, "tool_choice");
  const bool named = choice != nullptr && choice->is_object();
  std::string_view word;
  if (choice != nullptr && choice->is_string()) word = choice->as_string();
  if (choice != nullptr && !named && word != "none" && word != "auto" && word != "required") {
    return error(ErrorCode::kInvalidArgument,
                 "tool_choice: must be \"none\", \"auto\", \"required\" or an object that names a function");
  }
  if (tools != nullptr && !tools->is_array()) return error(ErrorCode::kInvalidArgument, "tools: must be a list");
  if (tools == nullptr || tools->as_array().empty()) {
    if (!named && word != "required") return {};
    return error(ErrorCode::kInvalidArgument, "tool_choice: tools must be set where a call is required");
  }
  if (word == "none") return {};
  return error(ErrorCode::kInvalidArgument,
               "tools: tool calls are not supported by this server; leave tools out or send tool_choice \"none\"");
}

// The effort that is asked for as templates of several families read it, as SGLang passes it on.
Status read_effort(const json::object& body, json::object* kwargs) {
  const json::value* effort = find_field(body, "reasoning_effort");
  const char* name = "reasoning_effort";
  bool enabled = false;
  if (const json::value* reasoning = find_field(body, "reasoning")) {
    if (!reasoning->is_object()) return error(ErrorCode::kInvalidArgument, "reasoning: must be an object");
    if (const json::value* mine = find_field(reasoning->as_object(), "effort")) {
      effort = mine;
      name = "reasoning";
    }
    BATON_ASSIGN(auto on, bool_field(reasoning->as_object(), "enabled"));
    enabled = on.value_or(false);
  }
  if (effort != nullptr) {
    constexpr std::string_view kEfforts[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    const bool word = effort->is_string() && std::find(std::begin(kEfforts), std::end(kEfforts),
                                                       std::string_view(effort->as_string())) != std::end(kEfforts);
    const double share = effort->is_number() ? effort->to_number<double>() : -1;
    if (!word && !(share >= 0 && share <= 0.99)) {
      return error(ErrorCode::kInvalidArgument,
                   "{}: the effort must be none, minimal, low, medium, high, xhigh, max or a number in [0, 0.99]",
                   name);
    }
    kwargs->insert({{"reasoning_effort", *effort}});
  }
  if (effort == nullptr && !enabled) return {};
  const bool thinking = enabled || !effort->is_string() || effort->as_string() != "none";
  kwargs->insert({{"thinking", thinking}, {"enable_thinking", thinking}});  // what is there already stays
  return {};
}

// The template: the model's, or where the operator allows that the request's own.
Result<text::ChatTemplate> choose_template(const json::object& body, const json::object& kwargs,
                                           const ModelText& model) {
  const json::value* own = find_field(body, "chat_template");
  if (own == nullptr) own = find_field(kwargs, "chat_template");
  if (own == nullptr) {
    if (model.chat_template) return *model.chat_template;
    return error(ErrorCode::kInvalidArgument,
                 "the model has no chat template; use /v1/completions or serve with --chat-template FILE");
  }
  if (!own->is_string()) return error(ErrorCode::kInvalidArgument, "chat_template: must be a string");
  if (!model.trust_request_chat_template) {
    return error(ErrorCode::kInvalidArgument,
                 "chat_template: a request's own is taken only by a server with --trust-request-chat-template");
  }
  if (own->as_string().size() > kTemplateBytesMax) {
    return error(ErrorCode::kInvalidArgument, "chat_template: {} bytes; at most {} are allowed",
                 own->as_string().size(), kTemplateBytesMax);
  }
  auto parsed = text::ChatTemplate::parse(std::string(own->as_string()));
  if (!parsed) return error(ErrorCode::kInvalidArgument, "chat_template: {}", parsed.error().message);
  return parsed;
}

Result<json::value> read_documents(const json::object& body) {
  const json::value* documents = find_field(body, "documents");
  if (documents == nullptr) return json::value();
  const bool sound = documents->is_array() && std::all_of(documents->as_array().begin(), documents->as_array().end(),
                                                          [](const json::value& entry) { return entry.is_object(); });
  if (!sound) return error(ErrorCode::kInvalidArgument, "documents: must be a list of objects");
  return *documents;
}

// The ids that vLLM's routers send with a chat which prefill has tokenized already; null without them. What else stands
// there is for a connector of vLLM's.
Result<const json::value*> find_forwarded_ids(const json::object& body) {
  const json::value* params = find_field(body, "kv_transfer_params");
  if (params == nullptr) return nullptr;
  if (!params->is_object()) return error(ErrorCode::kInvalidArgument, "kv_transfer_params: must be an object");
  for (const auto& [name, value] : params->as_object()) {
    if (name == "prompt_token_ids" || asks_for_nothing(value)) continue;
    return error(ErrorCode::kInvalidArgument,
                 "kv_transfer_params: {}: another engine's transfer of KV is not supported by this server; leave it "
                 "out",
                 std::string_view(name));
  }
  return find_field(params->as_object(), "prompt_token_ids");
}

// A normalised message's text.
std::string text_of(const json::object& message) {
  const json::value* content = message.if_contains("content");
  if (content == nullptr) return {};
  if (content->is_string()) return std::string(content->as_string());
  std::string text;
  if (!content->is_array()) return text;
  for (const json::value& part : content->as_array()) {
    if (const json::value* piece = part.as_object().if_contains("text"); piece != nullptr && piece->is_string())
      text += std::string_view(piece->as_string());
  }
  return text;
}

}  // namespace

Result<std::string> read_last_message(const json::object& body, text::ChatInput* input) {
  BATON_ASSIGN(const auto generation, bool_field(body, "add_generation_prompt"));
  BATON_ASSIGN(const auto proceed, bool_field(body, "continue_final_message"));
  const bool continues = proceed.value_or(false);
  if (generation.value_or(false) && continues) {
    return error(ErrorCode::kInvalidArgument,
                 "continue_final_message: cannot be true together with add_generation_prompt");
  }
  input->add_generation_prompt = generation.value_or(true);
  input->continue_final_message = continues;
  if (generation) return std::string();
  const std::optional<std::string> begun = text::take_final_assistant(input->messages, continues);
  input->continue_final_message = continues && !begun;
  input->add_generation_prompt = !input->continue_final_message;
  return begun.value_or("");
}

Result<Prompt> read_chat_prompt(json::object* body, const ReadContext& read, ApiRequest* request) {
  const ModelText& model = read.model;
  const json::value* messages = find_field(*body, "messages");
  if (messages == nullptr || !messages->is_array() || messages->as_array().empty()) {
    return error(ErrorCode::kInvalidArgument, "messages: must be a list with at least one message");
  }
  BATON_TRY(check_tools(*body));
  BATON_ASSIGN(auto add_special, bool_field(*body, "add_special_tokens"));
  text::ChatInput input;
  if (const json::value* extra = find_field(*body, "chat_template_kwargs")) {
    if (!extra->is_object()) return error(ErrorCode::kInvalidArgument, "chat_template_kwargs: must be an object");
    input.template_kwargs = extra->as_object();
  }
  BATON_TRY(read_effort(*body, &input.template_kwargs));
  BATON_ASSIGN(input.documents, read_documents(*body));
  // Ids stand for what a template would make.
  if (const json::value* ids = find_field(*body, "input_ids")) return read_ids(read, *ids, "input_ids");
  BATON_ASSIGN(const text::ChatTemplate chat, choose_template(*body, input.template_kwargs, model));
  BATON_ASSIGN(input.messages, text::normalise_messages(messages->as_array(), chat.message_form()));
  // After the messages were checked: ids do not hold the images that a message may have.
  BATON_ASSIGN(const json::value* forwarded, find_forwarded_ids(*body));
  if (forwarded != nullptr) return read_ids(read, *forwarded, "kv_transfer_params.prompt_token_ids");
  body->erase("messages");
  BATON_ASSIGN(auto echo, bool_field(*body, "echo"));
  BATON_ASSIGN(auto generation, bool_field(*body, "add_generation_prompt"));
  const json::object& last = input.messages.back().as_object();
  if (echo.value_or(false) && (last.at("role") == "assistant" || !generation.value_or(true)))
    request->echoes = {{text_of(last), false}};
  BATON_ASSIGN(const std::string begun, read_last_message(*body, &input));
  input.special_tokens = model.special_tokens;
  jinja::RenderLimits limits;
  limits.stop = read.stop;
  BATON_ASSIGN(std::string text, chat.render_chat(std::move(input), limits));
  text += begun;
  return read_text(read, text, "messages", add_special.value_or(false));  // the template writes BOS itself
}

}  // namespace baton::http
