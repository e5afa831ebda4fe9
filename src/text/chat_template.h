// Chat templates: the Jinja text of a model's tokenizer_config.json that turns messages into a prompt.
//
// The language is the subset of Jinja 3.1 that templates of language models use, rendered as Hugging Face renders them:
// sandboxed and immutable, trim_blocks, lstrip_blocks, break and continue, tojson without HTML escapes,
// raise_exception, strftime_now and the generation tag. Left out, with an error at parse: template inheritance and
// includes, recursive loops, autoescape, and the filters that format for the web. Integers have 127 bits.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "jinja/limits.h"

namespace baton::text {

using jinja::RenderLimits;

// How a template takes the messages of the OpenAI API. Found out once, when the template is parsed.
struct MessageForm {
  bool content_parts = false;   // it walks over lists of content parts; else content must be one text
  bool arguments_text = false;  // it wants tool call arguments as JSON text; else as an object
  bool null_content = true;     // a message of tool calls alone may have content null
  bool empty_content = true;    // ... or content ""
};

// What one rendering is given.
struct ChatInput {
  boost::json::array messages;   // normalised
  boost::json::value tools;      // as the client sent them, or null
  boost::json::value documents;  // or null
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the prompt ends with the final message's content: see render_chat
  boost::json::object special_tokens;   // bos_token, eos_token, ... as texts
  boost::json::object template_kwargs;  // the client's chat_template_kwargs; wins over special tokens
};
// What a template sees of it.
[[nodiscard]] boost::json::object chat_context(ChatInput input);

// Immutable; any number of threads may use one at once. Cheap to copy.
class ChatTemplate {
 public:
  // kInvalidArgument with the line if the text is not a template.
  [[nodiscard]] static Result<ChatTemplate> parse(std::string source);

  // kInvalidArgument with the line when the template fails: by its own raise_exception, by an operation on something
  // undefined, or by passing one of the limits. See chat_context() for what templates expect.
  [[nodiscard]] Result<std::string> render(const boost::json::object& context, const RenderLimits& limits = {}) const;

  // The prompt for a conversation. With continue_final_message, as in transformers: all that the template writes behind
  // the final message's content is cut off, and white space at the content's end too where the template trims it.
  // kInvalidArgument if that content is missing or does not show in the prompt.
  [[nodiscard]] Result<std::string> render_chat(ChatInput input, const RenderLimits& limits = {}) const;

  [[nodiscard]] MessageForm message_form() const;
  [[nodiscard]] const std::string& source() const;

 private:
  struct State;
  explicit ChatTemplate(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  [[nodiscard]] static MessageForm detect_form(const ChatTemplate& parsed);

  std::shared_ptr<const State> state_;
};

// Messages of the OpenAI API as the template wants them:
// - roles in lower case; null fields dropped, as are empty tool_calls;
// - content: parts joined by a space unless the template walks over parts; null becomes "", except where tool calls
//   stand for it and the template prefers null;
// - arguments of tool calls parsed or written as JSON, as the template wants.
// kInvalidArgument names the field: not an object, no role, a part that is no text, arguments that are no JSON object.
[[nodiscard]] Result<boost::json::array> normalise_messages(const boost::json::array& messages,
                                                            const MessageForm& form);

// What SGLang does with a last message that is an assistant's text. With `continues` (continue_final_message) it is
// taken off the normalised `messages` and returned, to be put behind the prompt of the others; without, it becomes a
// user's.
[[nodiscard]] std::optional<std::string> take_final_assistant(boost::json::array& messages, bool continues);

}  // namespace baton::text
