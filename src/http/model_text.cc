#include "http/model_text.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "http/json.h"
#include "text/json_node.h"
#include "text/tokenizer_config.h"

namespace baton::http {
namespace {

// temperature, top_p, top_k, min_p and repetition_penalty of generation_config.json, which OpenAI's endpoints default
// to, as in SGLang and vLLM.
Status take_defaults(const boost::json::object& object, engine::SamplingParams* params) {
  BATON_ASSIGN(const auto temperature, number_field(object, "temperature", 0, 1e6));
  BATON_ASSIGN(const auto top_p, number_field(object, "top_p", 0, 1));
  BATON_ASSIGN(const auto top_k, int_field(object, "top_k", -1, 1 << 30));
  BATON_ASSIGN(const auto min_p, number_field(object, "min_p", 0, 1));
  BATON_ASSIGN(const auto repetition, number_field(object, "repetition_penalty", 0, 2));
  if (temperature) params->temperature = *temperature;
  if (top_p && *top_p > 0) params->top_p = *top_p;
  if (min_p) params->min_p = *min_p;
  if (top_k && *top_k > 0) params->top_k = static_cast<int>(*top_k);  // 0 means all there
  if (repetition && *repetition > 0) params->repetition_penalty = *repetition;
  return {};
}

Status read_defaults(const std::string& directory, engine::SamplingParams* params) {
  const std::string path = directory + "/generation_config.json";
  std::ifstream file(path);
  if (!file) return {};
  std::stringstream text;
  text << file.rdbuf();
  auto object = parse_object(text.str());
  if (!object) return error(ErrorCode::kCorrupt, "{}: {}", path, object.error().message);
  if (Status taken = take_defaults(*object, params); !taken) {
    return error(ErrorCode::kCorrupt, "{}: {}", path, taken.error().message);
  }
  return {};
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) return error(ErrorCode::kNotFound, "cannot read {}", path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// {"content": "<s>", ...}, as some files write a special token.
const boost::json::value* content_of(const boost::json::value& value) {
  const boost::json::object* token = value.if_object();
  const boost::json::value* content = token == nullptr ? nullptr : token->if_contains("content");
  return content != nullptr && content->is_string() ? content : nullptr;
}

// tokenizer_config.json for those who ask, with special tokens as texts. Nothing if it is beyond what answers may hold.
boost::json::object describe_tokenizer(const std::string& directory) {
  boost::json::object info;
  if (const auto text = text::read_text_file(directory + "/tokenizer_config.json"); text) {
    if (auto object = parse_object(*text); object) info = std::move(*object);
  }
  for (auto& member : info) {
    boost::json::value& value = member.value();
    if (const boost::json::value* content = content_of(value)) value = boost::json::value(*content);
    if (!value.is_array()) continue;
    for (boost::json::value& item : value.get_array()) {
      if (const boost::json::value* content = content_of(item)) item = boost::json::value(*content);
    }
  }
  const boost::json::value* name = info.if_contains("tokenizer_class");
  if (name == nullptr || !name->is_string()) info["tokenizer_class"] = "PreTrainedTokenizerFast";
  return info;
}

// As SGLang: the tokenizer's own, and where Llama 3 ends a message to a tool.
std::vector<int32_t> stop_tokens(const text::Tokenizer& tokenizer, const std::string& eos_token) {
  std::vector<int32_t> ids;
  for (const std::string_view token : {std::string_view(eos_token), std::string_view("<|eom_id|>")}) {
    const auto id = tokenizer.token_id(token);
    if (id && tokenizer.is_special(*id)) ids.push_back(*id);
  }
  return ids;
}

}  // namespace

Result<std::unique_ptr<ModelText>> load_model_text(const ModelTextOptions& options) {
  auto model = std::make_unique<ModelText>();
  model->model_path = options.model_path;
  model->served_name = options.served_name.empty() ? options.model_path : options.served_name;
  BATON_TRY(read_defaults(options.model_path, &model->defaults));
  if (options.skip_tokenizer) return model;
  const std::string directory = options.tokenizer_path.empty() ? options.model_path : options.tokenizer_path;
  if (const std::string path = directory + "/tokenizer.json"; !std::filesystem::exists(path)) {
    return error(ErrorCode::kNotFound,
                 "no {}; name a directory that has one with --tokenizer-path, or serve token ids alone with "
                 "--skip-tokenizer-init",
                 path);
  }
  BATON_ASSIGN(text::ModelTokenizer loaded, text::load_model_tokenizer(directory));
  model->tokenizer = std::move(loaded.tokenizer);
  model->bos_token = loaded.config.bos_token.value_or("");
  model->eos_token = loaded.config.eos_token.value_or("");
  model->special_tokens = std::move(loaded.config.special_tokens_map);
  model->eos_ids = stop_tokens(*model->tokenizer, model->eos_token);
  model->tokenizer_config = describe_tokenizer(directory);
  model->tokenizer_max_length = loaded.config.model_max_length;
  std::string source;
  if (!options.chat_template_path.empty()) {
    BATON_ASSIGN(source, read_file(options.chat_template_path));
  } else if (const std::string* own = loaded.config.chat_template()) {
    source = *own;
  }
  if (!source.empty()) {
    auto parsed = text::ChatTemplate::parse(std::move(source));
    if (!parsed) {
      return error(parsed.error().code, "{}: {}",
                   options.chat_template_path.empty() ? directory : options.chat_template_path, parsed.error().message);
    }
    model->chat_template = std::move(*parsed);
  }
  return model;
}

}  // namespace baton::http
