#include "text/json_node.h"

#include <boost/json.hpp>
#include <fstream>
#include <limits>
#include <system_error>

namespace baton::text {
namespace {

// simdjson refuses integers beyond 64 bits, and transformers writes int(1e30) for "no limit". Boost reads them as
// doubles.
std::string with_big_integers_as_floats(std::string_view text) {
  boost::json::error_code failure;
  const boost::json::value value = boost::json::parse({text.data(), text.size()}, failure);
  return failure ? std::string(text) : boost::json::serialize(value);
}

}  // namespace

Error JsonNode::wrong_type(std::string_view wanted) const {
  std::string_view found = "a number";
  if (element_.is_null()) found = "null or nothing";
  if (element_.is_bool()) found = "a boolean";
  if (element_.is_string()) found = "a string";
  if (element_.is_array()) found = "an array";
  if (element_.is_object()) found = "an object";
  return error(ErrorCode::kCorrupt, "{}: {} expected, found {}", path_.empty() ? "top level" : path_, wanted, found);
}

Result<std::string_view> JsonNode::string() const {
  std::string_view value;
  if (element_.get(value) != simdjson::SUCCESS) return wrong_type("a string");
  return value;
}

Result<bool> JsonNode::boolean() const {
  bool value = false;
  if (element_.get(value) != simdjson::SUCCESS) return wrong_type("a boolean");
  return value;
}

Result<int32_t> JsonNode::index() const {
  int64_t value = 0;
  if (element_.get(value) != simdjson::SUCCESS) return wrong_type("an integer");
  if (value < 0 || value > std::numeric_limits<int32_t>::max()) {
    return error(ErrorCode::kCorrupt, "{}: {} is not in [0, 2^31)", path_, value);
  }
  return static_cast<int32_t>(value);
}

Result<std::vector<JsonNode>> JsonNode::array() const {
  simdjson::dom::array items;
  if (element_.get(items) != simdjson::SUCCESS) return wrong_type("an array");
  if (items.size() > kElementsMax) {
    return error(ErrorCode::kCorrupt, "{}: {} or more elements, at most {} are read", path_, items.size(),
                 kElementsMax);
  }
  std::vector<JsonNode> nodes;
  nodes.reserve(items.size());
  for (simdjson::dom::element item : items) nodes.emplace_back(item, fmt::format("{}[{}]", path_, nodes.size()));
  return nodes;
}

Result<std::vector<int32_t>> JsonNode::indices() const {
  BATON_ASSIGN(const std::vector<JsonNode> nodes, array());
  std::vector<int32_t> values;
  values.reserve(nodes.size());
  for (const JsonNode& node : nodes) {
    BATON_ASSIGN(values.emplace_back(), node.index());
  }
  return values;
}

Result<JsonNode> JsonNode::member(std::string_view key) const {
  simdjson::dom::object object;
  if (element_.get(object) != simdjson::SUCCESS) return wrong_type("an object");
  JsonNode node = optional_member(key);
  if (node.is_null()) return node.wrong_type("a value");
  return node;
}

JsonNode JsonNode::optional_member(std::string_view key) const {
  static const auto* const null_parser = [] {
    auto* parser = new simdjson::dom::parser;
    BATON_CHECK(parser->parse("null", 4).error() == simdjson::SUCCESS);
    return parser;
  }();
  simdjson::dom::element value = null_parser->doc.root();
  simdjson::dom::object object;
  if (element_.get(object) == simdjson::SUCCESS) {
    // The last of equal keys wins, as in the reference.
    for (const auto& [name, member] : object) {
      if (name == key) value = member;
    }
  }
  return JsonNode(value, path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key));
}

Result<bool> JsonNode::flag(std::string_view key, bool fallback) const {
  const JsonNode node = optional_member(key);
  if (node.is_null()) return fallback;
  return node.boolean();
}

Result<std::string_view> JsonNode::type() const {
  BATON_ASSIGN(const JsonNode node, member("type"));
  return node.string();
}

Result<JsonDocument> JsonDocument::parse(std::string_view text, std::string_view name) {
  JsonDocument document;
  auto failure = document.parser_->parse(text.data(), text.size()).get(document.root_);
  if (failure == simdjson::NUMBER_ERROR) {
    const std::string rewritten = with_big_integers_as_floats(text);
    failure = document.parser_->parse(rewritten).get(document.root_);
  }
  if (failure) {
    return error(ErrorCode::kCorrupt, "{}: not JSON ({} bytes): {}", name, text.size(),
                 simdjson::error_message(failure));
  }
  return document;
}

Result<JsonDocument> JsonDocument::load(const std::filesystem::path& file) {
  BATON_ASSIGN(const std::string text, read_text_file(file));
  return parse(text, file.string());
}

Error in_file(const std::filesystem::path& file, const Error& failure) {
  constexpr size_t kShown = 500;
  std::string text = failure.message;
  if (text.size() > kShown) {
    size_t end = kShown;
    while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not within a UTF-8 character
    text = text.substr(0, end) + "...";
  }
  return error(failure.code, "{}: {}", file.string(), text);
}

bool file_is_there(const std::filesystem::path& file) {
  std::error_code failure;
  return std::filesystem::exists(std::filesystem::symlink_status(file, failure));
}

Result<std::string> read_text_file(const std::filesystem::path& file) {
  std::error_code failure;
  const std::filesystem::file_status status = std::filesystem::status(file, failure);
  if (!std::filesystem::exists(status)) return error(ErrorCode::kNotFound, "{}: no such file", file.string());
  // Reading a pipe would wait for a writer.
  if (!std::filesystem::is_regular_file(status)) {
    return error(ErrorCode::kInvalidArgument, "{}: not a regular file", file.string());
  }
  const std::uintmax_t size = std::filesystem::file_size(file, failure);
  if (failure) return error(ErrorCode::kNotFound, "{}: {}", file.string(), failure.message());
  if (size > kTextFileBytesMax) {
    return error(ErrorCode::kInvalidArgument, "{}: {} bytes, at most {} are read", file.string(), size,
                 kTextFileBytesMax);
  }
  std::string text(size, '\0');
  std::ifstream stream(file, std::ios::binary);
  if (!stream.read(text.data(), static_cast<std::streamsize>(size))) {
    return error(ErrorCode::kUnavailable, "{}: cannot read its {} bytes", file.string(), size);
  }
  return text;
}

}  // namespace baton::text
