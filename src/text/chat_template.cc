#include "text/chat_template.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "jinja/from_json.h"
#include "jinja/interpreter.h"
#include "jinja/lexer.h"
#include "jinja/meter.h"
#include "jinja/parser.h"

namespace baton::text {
namespace {

using jinja::Body;
using jinja::Expr;
using jinja::ExprKind;
using jinja::StatementKind;

// message.content, message['content'], or that through filters.
bool reads_content(const Expr& expr) {
  switch (expr.kind) {
    case ExprKind::kAttribute:
      return *expr.value.text() == "content";
    case ExprKind::kItem: {
      const std::string* key = expr.children[1]->value.text();
      return expr.children[1]->kind == ExprKind::kConstant && key != nullptr && *key == "content";
    }
    case ExprKind::kFilter:
      return expr.children[0] != nullptr && reads_content(*expr.children[0]);
    default:
      return false;
  }
}

// Whether a loop walks over the content of a message, or over a variable that holds it. `holders` are such variables.
bool walks_content(const Body& body, std::set<std::string>& holders) {
  for (const auto& statement : body) {
    if (statement->kind == StatementKind::kSet && statement->target.attribute.empty() &&
        reads_content(*statement->exprs.front())) {
      holders.insert(statement->target.name);
    }
    if (statement->kind == StatementKind::kFor) {
      const Expr& iterable = *statement->exprs.front();
      if (reads_content(iterable)) return true;
      if (iterable.kind == ExprKind::kName && holders.count(*iterable.value.text()) != 0) return true;
    }
    if (walks_content(statement->body, holders) || walks_content(statement->otherwise, holders)) return true;
    for (const auto& branch : statement->branches) {
      if (walks_content(branch.body, holders)) return true;
    }
  }
  return false;
}

// A message that a template wrote, or that names what it worked on, at a length for one line.
std::string shown(const std::string& message) {
  constexpr size_t kBytesMax = 1000;
  if (message.size() <= kBytesMax) return message;
  size_t end = kBytesMax;
  while ((static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;  // not within a UTF-8 character
  return message.substr(0, end) + "...";
}

constexpr std::string_view kProbeName = "probe_argument";
constexpr std::string_view kProbeText = R"({"probe_argument": 7})";

// A conversation with one tool call, to see what a template makes of it.
boost::json::object probe_context(boost::json::value arguments, boost::json::value content) {
  const boost::json::object call = {
      {"id", "call_0"}, {"type", "function"}, {"function", {{"name", "probe"}, {"arguments", std::move(arguments)}}}};
  ChatInput input;
  input.messages = {{{"role", "user"}, {"content", "question"}},
                    {{"role", "assistant"}, {"content", std::move(content)}, {"tool_calls", boost::json::array{call}}},
                    {{"role", "tool"}, {"content", "answer"}, {"tool_call_id", "call_0"}, {"name", "probe"}}};
  input.special_tokens = {{"bos_token", ""}, {"eos_token", ""}};
  return chat_context(std::move(input));
}

}  // namespace

struct ChatTemplate::State {
  std::string source;
  jinja::Template parsed;
  MessageForm form;
};

Result<ChatTemplate> ChatTemplate::parse(std::string source) {
  try {
    auto state = std::make_shared<State>();
    state->source = std::move(source);
    state->parsed = jinja::parse_template(state->source);
    const ChatTemplate parsed(state);
    state->form = detect_form(parsed);
    return parsed;
  } catch (const jinja::SyntaxFailure& failure) {
    return error(ErrorCode::kInvalidArgument, "chat template line {}: {}", failure.line, failure.message);
  } catch (const jinja::Failure& failure) {
    return error(ErrorCode::kInvalidArgument, "chat template: {}", failure.message);
  } catch (const std::exception& failure) {
    return error(ErrorCode::kInvalidArgument, "chat template: {}", failure.what());
  }
}

Result<std::string> ChatTemplate::render(const boost::json::object& context, const jinja::RenderLimits& limits) const {
  int line = 1;
  try {
    const jinja::Meter meter(limits);
    const jinja::Dict values = jinja::from_json(context);
    jinja::Interpreter interpreter(state_->parsed, values, limits);
    try {
      return interpreter.run();
    } catch (...) {
      line = interpreter.line();
      throw;
    }
  } catch (const jinja::Failure& failure) {
    return error(ErrorCode::kInvalidArgument, "chat template line {}: {}", line, shown(failure.message));
  } catch (const std::exception& failure) {
    return error(ErrorCode::kInvalidArgument, "chat template line {}: {}", line, failure.what());
  }
}

MessageForm ChatTemplate::message_form() const { return state_->form; }
const std::string& ChatTemplate::source() const { return state_->source; }

MessageForm ChatTemplate::detect_form(const ChatTemplate& parsed) {
  MessageForm form;
  std::set<std::string> holders = {"content"};
  form.content_parts = walks_content(parsed.state_->parsed.body, holders);
  jinja::RenderLimits limits;
  limits.output_bytes_max = 1 << 20;
  limits.steps_max = 50'000;
  const auto shows = [&](bool as_text, const boost::json::value& content) {
    const boost::json::value arguments = as_text ? boost::json::value(kProbeText) : boost::json::value{{kProbeName, 7}};
    const auto prompt = parsed.render(probe_context(arguments, content), limits);
    if (!prompt.ok()) return false;
    if (as_text) return prompt->find(kProbeText) != std::string::npos;
    // An object printed as Python writes it, in single quotes, is not what the model was trained on.
    return prompt->find(kProbeName) != std::string::npos &&
           prompt->find(fmt::format("'{}'", kProbeName)) == std::string::npos;
  };
  for (const bool as_text : {false, true}) {
    const bool null_content = shows(as_text, nullptr);
    const bool empty_content = shows(as_text, "");
    if (!null_content && !empty_content) continue;
    form.arguments_text = as_text;
    form.null_content = null_content;
    form.empty_content = empty_content;
    return form;
  }
  form.null_content = false;  // it knows no tool calls
  return form;
}

boost::json::object chat_context(ChatInput input) {
  boost::json::object context = std::move(input.special_tokens);
  for (auto& [key, value] : input.template_kwargs) context[key] = value;
  context["messages"] = std::move(input.messages);
  context["tools"] = std::move(input.tools);
  context["documents"] = std::move(input.documents);
  context["add_generation_prompt"] = input.add_generation_prompt;
  return context;
}

}  // namespace baton::text
