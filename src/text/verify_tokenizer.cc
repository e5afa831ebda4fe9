#include "text/verify_tokenizer.h"

#include <fmt/ranges.h>

#include "text/json_node.h"
#include "text/streaming_detokenizer.h"
#include "text/tokenizer.h"

namespace baton::text {
namespace {

std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  StreamingDetokenizer detokenizer(tokenizer, {.skip_special = skip_special});
  std::string text;
  for (int32_t id : ids) text += detokenizer.push(id);
  return text + detokenizer.finish();
}

// Text on one line, for a message.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

class Verifier {
 public:
  explicit Verifier(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  Status text_case(const JsonNode& node) {
    BATON_ASSIGN(const JsonNode text_node, node.member("text"));
    BATON_ASSIGN(const std::string_view text, text_node.string());
    BATON_ASSIGN(const JsonNode ids_node, node.member("ids"));
    BATON_ASSIGN(const std::vector<int32_t> ids, ids_node.indices());
    BATON_TRY(compare_encoding(node, "encode", ids, text, false));
    if (node.has("ids_special")) {
      BATON_ASSIGN(const std::vector<int32_t> special, node.optional_member("ids_special").indices());
      BATON_TRY(compare_encoding(node, "encode with special tokens", special, text, true));
    }
    BATON_TRY(compare_decoding(node, "decoded", ids, false));
    return compare_decoding(node, "decoded_skip_special", ids, true);
  }

  Status model_case(const JsonNode& node) {
    BATON_ASSIGN(const JsonNode prompt_node, node.member("prompt"));
    BATON_ASSIGN(const std::string_view prompt, prompt_node.string());
    BATON_ASSIGN(const JsonNode ids_node, node.member("prompt_ids"));
    BATON_ASSIGN(const std::vector<int32_t> prompt_ids, ids_node.indices());
    BATON_TRY(compare_encoding(node, "encode", prompt_ids, prompt, false));
    BATON_ASSIGN(const JsonNode greedy_node, node.member("greedy_ids"));
    BATON_ASSIGN(const std::vector<int32_t> greedy_ids, greedy_node.indices());
    return compare_decoding(node, "greedy_text", greedy_ids, false);
  }

  TokenizerReport report;

 private:
  Status compare_encoding(const JsonNode& node, std::string_view what, const std::vector<int32_t>& expected,
                          std::string_view text, bool add_special) {
    BATON_ASSIGN(const std::vector<int32_t> found, tokenizer_.encode(text, add_special));
    ++report.comparisons;
    if (expected != found) {
      report.mismatches.push_back(fmt::format("{}: {}: expected {} found {}", node.path(), what, expected, found));
    }
    return {};
  }

  Status compare_decoding(const JsonNode& node, std::string_view key, const std::vector<int32_t>& ids,
                          bool skip_special) {
    const JsonNode expected_node = node.optional_member(key);
    if (expected_node.is_null()) return {};
    BATON_ASSIGN(const std::string_view expected, expected_node.string());
    compare_text(expected_node, "decode", expected, tokenizer_.decode(ids, skip_special));
    std::string streamed = stream(tokenizer_, ids, skip_special);
    if (streamed == " " + std::string(expected)) streamed.erase(0, 1);  // a stream goes on from a prompt
    compare_text(expected_node, "decode as a stream", expected, streamed);
    return {};
  }

  void compare_text(const JsonNode& node, std::string_view what, std::string_view expected, std::string_view found) {
    ++report.comparisons;
    if (expected == found) return;
    report.mismatches.push_back(
        fmt::format("{}: {}: expected {} found {}", node.path(), what, quoted(expected), quoted(found)));
  }

  const Tokenizer& tokenizer_;
};

}  // namespace

Result<TokenizerReport> verify_tokenizer(const std::filesystem::path& tokenizer_json,
                                         const std::filesystem::path& golden) {
  BATON_ASSIGN(const Tokenizer tokenizer, Tokenizer::load(tokenizer_json));
  BATON_ASSIGN(const JsonDocument document, JsonDocument::load(golden));
  const JsonNode root = document.root();
  const bool is_model = root.is_object();
  const JsonNode list = is_model ? root.optional_member("cases") : root;
  Verifier verifier(tokenizer);
  const auto cases = list.array();
  if (!cases) return error(ErrorCode::kCorrupt, "{}: {}", golden.string(), cases.error().message);
  for (const JsonNode& node : *cases) {
    ++verifier.report.cases;
    const Status done = is_model ? verifier.model_case(node) : verifier.text_case(node);
    if (!done) return error(done.error().code, "{}: {}", golden.string(), done.error().message);
  }
  return std::move(verifier.report);
}

}  // namespace baton::text
