// A value inside a JSON file together with its path ("pre_tokenizer.pretokenizers[1].pattern"), so that every complaint
// says where. A thin reading layer over simdjson's tree; the tree must outlive the node.
#pragma once

#include <simdjson.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::text {

class JsonNode {
 public:
  // Eight times the merges of the largest vocabularies; a node of each takes some 100 bytes.
  static constexpr size_t kElementsMax = 1 << 21;

  JsonNode(simdjson::dom::element element, std::string path) : element_(element), path_(std::move(path)) {}

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] simdjson::dom::element element() const { return element_; }
  [[nodiscard]] bool is_null() const { return element_.is_null(); }
  [[nodiscard]] bool is_object() const { return element_.is_object(); }
  [[nodiscard]] bool is_array() const { return element_.is_array(); }
  [[nodiscard]] bool is_string() const { return element_.is_string(); }

  // kCorrupt, naming the path, if the value has another type.
  [[nodiscard]] Result<std::string_view> string() const;
  [[nodiscard]] Result<bool> boolean() const;
  // An id or count: 0 to 2^31-1.
  [[nodiscard]] Result<int32_t> index() const;
  // At most kElementsMax elements.
  [[nodiscard]] Result<std::vector<JsonNode>> array() const;
  [[nodiscard]] Result<std::vector<int32_t>> indices() const;

  // A member that must be there.
  [[nodiscard]] Result<JsonNode> member(std::string_view key) const;
  // A member that may be absent: present with null and absent are alike, both is_null().
  [[nodiscard]] JsonNode optional_member(std::string_view key) const;
  [[nodiscard]] bool has(std::string_view key) const { return !optional_member(key).is_null(); }
  // A flag that may be absent or null.
  [[nodiscard]] Result<bool> flag(std::string_view key, bool fallback) const;
  // The member "type".
  [[nodiscard]] Result<std::string_view> type() const;

  // error(kIncompatible): "PATH: what"
  template <typename... Args>
  [[nodiscard]] Error refuse(fmt::format_string<Args...> what, Args&&... args) const {
    return error(ErrorCode::kIncompatible, "{}: {}", path_, fmt::format(what, std::forward<Args>(args)...));
  }
  [[nodiscard]] Error wrong_type(std::string_view wanted) const;

 private:
  simdjson::dom::element element_;
  std::string path_;
};

// A parsed document and its root. Movable; nodes stay valid while it lives.
class JsonDocument {
 public:
  // kCorrupt with simdjson's reason if `text` is not JSON (cut off, not UTF-8...). `name` stands for it in messages.
  [[nodiscard]] static Result<JsonDocument> parse(std::string_view text, std::string_view name);

  // kNotFound or kCorrupt.
  [[nodiscard]] static Result<JsonDocument> load(const std::filesystem::path& file);

  // The path of the root is "" when parsed: members are named from the top.
  [[nodiscard]] JsonNode root() const { return JsonNode(root_, ""); }

 private:
  std::unique_ptr<simdjson::dom::parser> parser_ = std::make_unique<simdjson::dom::parser>();
  simdjson::dom::element root_;
};

// The failure with the file in front, and not too long for a line: what a file says may be.
[[nodiscard]] Error in_file(const std::filesystem::path& file, const Error& failure);

// Whether something has that name, be it readable or not.
[[nodiscard]] bool file_is_there(const std::filesystem::path& file);

// A parsed tree takes up to eight times as many bytes, and the largest published tokenizer.json has 34 MB.
inline constexpr size_t kTextFileBytesMax = size_t{128} << 20;
// The bytes of a regular file of at most kTextFileBytesMax. kNotFound, kUnavailable or kInvalidArgument with the path.
[[nodiscard]] Result<std::string> read_text_file(const std::filesystem::path& file);

}  // namespace baton::text
