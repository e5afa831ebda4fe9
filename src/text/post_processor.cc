#include "text/post_processor.h"

namespace baton::text {
namespace {

constexpr size_t kTokensMax = 64;  // around a text on each side; published files have up to 4

// The ids of one special token of a template: the file maps its name to ids.
Result<std::vector<int32_t>> ids_of_special(const JsonNode& node, const JsonNode& special) {
  BATON_ASSIGN(const JsonNode id, special.member("id"));
  BATON_ASSIGN(const std::string_view name, id.string());
  BATON_ASSIGN(const JsonNode table, node.member("special_tokens"));
  BATON_ASSIGN(const JsonNode entry, table.member(name));
  BATON_ASSIGN(const JsonNode ids, entry.member("ids"));
  BATON_ASSIGN(const std::vector<JsonNode> items, ids.array());
  if (items.size() > kTokensMax) return ids.refuse("{} ids, at most {} are read", items.size(), kTokensMax);
  return ids.indices();
}

Status read_template(const JsonNode& node, PostProcessor& processor) {
  BATON_ASSIGN(const JsonNode single, node.member("single"));
  BATON_ASSIGN(const std::vector<JsonNode> pieces, single.array());
  if (pieces.size() > kTokensMax) return single.refuse("{} pieces, at most {} are read", pieces.size(), kTokensMax);
  std::vector<int32_t> prefix, suffix;
  size_t sequences = 0;
  for (const JsonNode& piece : pieces) {
    if (piece.has("Sequence")) {
      ++sequences;
      continue;
    }
    BATON_ASSIGN(const JsonNode special, piece.member("SpecialToken"));
    BATON_ASSIGN(const std::vector<int32_t> ids, ids_of_special(node, special));
    auto& side = sequences == 0 ? prefix : suffix;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (sequences != 1) return single.refuse("a template with {} sequences is not supported (1 is)", sequences);
  if (processor.prefix.size() + prefix.size() > kTokensMax || processor.suffix.size() + suffix.size() > kTokensMax) {
    return single.refuse("more than {} tokens around a text", kTokensMax);
  }
  // What an earlier processor of a Sequence put around the text stays innermost.
  processor.prefix.insert(processor.prefix.begin(), prefix.begin(), prefix.end());
  processor.suffix.insert(processor.suffix.end(), suffix.begin(), suffix.end());
  return {};
}

Status read_processor(const JsonNode& node, PostProcessor& processor) {
  if (node.is_null()) return {};
  BATON_ASSIGN(const std::string_view type, node.type());
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return read_template(node, processor);
  if (type != "Sequence") {
    return node.refuse("post-processor \"{}\" is not supported (ByteLevel, TemplateProcessing, Sequence are)", type);
  }
  BATON_ASSIGN(const JsonNode list, node.member("processors"));
  BATON_ASSIGN(const std::vector<JsonNode> items, list.array());
  for (const JsonNode& item : items) BATON_TRY(read_processor(item, processor));
  return {};
}

}  // namespace

Result<PostProcessor> PostProcessor::from_json(const JsonNode& node) {
  PostProcessor processor;
  BATON_TRY(read_processor(node, processor));
  return processor;
}

}  // namespace baton::text
