// A conversation whose final message the model is to continue.
#include <boost/json/string.hpp>

#include <string_view>
#include <utility>

#include "jinja/unicode.h"
#include "text/chat_template.h"

namespace baton::text {
namespace {

// transformers' own tag. Its last space tells whether the template keeps white space at the content's end.
constexpr std::string_view kTag = "CONTINUE_FINAL_MESSAGE_TAG ";
constexpr std::string_view kTagWord = kTag.substr(0, kTag.size() - 1);

std::string_view trim(std::string_view text) { return jinja::strip(text, jinja::Side::kBoth); }

// The last part that has a text, or nullptr.
boost::json::value* last_text(boost::json::array& parts) {
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    boost::json::object* fields = part->if_object();
    boost::json::value* text = fields == nullptr ? nullptr : fields->if_contains("text");
    if (text != nullptr && text->is_string()) return text;
  }
  return nullptr;
}

// Marks the end of the final message's content and returns the content.
Result<std::string> tag_final_message(boost::json::array& messages) {
  boost::json::object* final = messages.empty() ? nullptr : messages.back().if_object();
  boost::json::value* content = final == nullptr ? nullptr : final->if_contains("content");
  if (content != nullptr && content->is_array()) content = last_text(content->get_array());
  if (content == nullptr || !content->is_string()) {
    return error(ErrorCode::kInvalidArgument, "continue_final_message: the final message has no text to continue");
  }
  boost::json::string& text = content->get_string();
  std::string before(text);
  text += kTag;
  return before;
}

}  // namespace

Result<std::string> ChatTemplate::render_chat(ChatInput input, const RenderLimits& limits) const {
  if (!input.continue_final_message) return render(chat_context(std::move(input)), limits);
  BATON_ASSIGN(const std::string content, tag_final_message(input.messages));
  BATON_ASSIGN(std::string prompt, render(chat_context(std::move(input)), limits));
  const size_t at = prompt.rfind(kTagWord);
  if (at == std::string::npos || jinja::find_text(prompt, trim(content)) == std::string::npos) {
    return error(ErrorCode::kInvalidArgument,
                 "continue_final_message: the chat template changes the final message, or leaves it out");
  }
  const bool keeps_space = std::string_view(prompt).substr(at).starts_with(kTag);
  prompt.resize(at);
  if (!keeps_space) prompt.resize(jinja::strip(prompt, jinja::Side::kRight).size());
  return prompt;
}

std::optional<std::string> take_final_assistant(boost::json::array& messages, bool continues) {
  const boost::json::object* final = messages.empty() ? nullptr : messages.back().if_object();
  const boost::json::value* role = final == nullptr ? nullptr : final->if_contains("role");
  if (role == nullptr || *role != "assistant") return std::nullopt;
  const boost::json::value* content = final->if_contains("content");
  if (content != nullptr && content->is_array()) return std::nullopt;
  std::string text(content != nullptr && content->is_string() ? std::string_view(content->get_string()) : "");
  messages.pop_back();
  if (continues) return text;
  messages.push_back({{"role", "user"}, {"content", boost::json::string(text)}});
  return std::nullopt;
}

}  // namespace baton::text
