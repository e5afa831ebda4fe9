// One name, one meaning: no two types of the tree have the same name, whatever their namespaces; and the namespace of a
// file is its folder's.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace baton {
namespace {

namespace fs = std::filesystem;

// The tokens of C++ text in order, "::" as one. Comments, literals and preprocessor lines are left out.
class Tokens {
 public:
  explicit Tokens(std::string_view text) : text_(text) {
    while (at_ < text_.size()) step();
  }
  [[nodiscard]] const std::vector<std::string>& list() const { return list_; }

 private:
  [[nodiscard]] bool sees(std::string_view what) const { return text_.substr(at_).starts_with(what); }
  static bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }
  void skip_past(std::string_view what) {
    const size_t found = text_.find(what, at_);
    at_ = found == std::string_view::npos ? text_.size() : found + what.size();
  }
  // From a quote to the next of its kind that no backslash escapes.
  void skip_literal(char quote) {
    for (++at_; at_ < text_.size() && text_[at_] != quote; ++at_) {
      if (text_[at_] == '\\') ++at_;
    }
    ++at_;
  }
  // R"x( ... )x", from its quote.
  void skip_raw() {
    const std::string delimiter(text_.substr(at_ + 1, text_.find('(', at_) - at_ - 1));
    skip_past(")" + delimiter + "\"");
  }
  void step() {
    const char c = text_[at_];
    if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      line_begins_ = line_begins_ || c == '\n';
      ++at_;
      return;
    }
    if (c == '#' && line_begins_) {
      do {
        skip_past("\n");
      } while (at_ >= 2 && at_ < text_.size() && text_[at_ - 2] == '\\');
      return;
    }
    line_begins_ = false;
    if (sees("//")) {
      skip_past("\n");
      line_begins_ = true;
    } else if (sees("/*")) {
      skip_past("*/");
    } else if (c == '"' || c == '\'') {
      if (c == '"' && !list_.empty() && list_.back() == "R") {
        list_.pop_back();
        return skip_raw();
      }
      skip_literal(c);
    } else if (is_word(c)) {
      const size_t begin = at_;
      const bool number = std::isdigit(static_cast<unsigned char>(c)) != 0;
      while (at_ < text_.size() && (is_word(text_[at_]) || (number && text_[at_] == '\''))) ++at_;
      list_.emplace_back(text_.substr(begin, at_ - begin));
    } else {
      list_.emplace_back(sees("::") ? "::" : std::string(1, c));
      at_ += list_.back().size();
    }
  }

  std::string_view text_;
  size_t at_ = 0;
  bool line_begins_ = true;
  std::vector<std::string> list_;
};

std::vector<std::string> tokens_in(const fs::path& path) {
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return Tokens(text).list();
}

// The name of the type that `head`, the tokens before a "{", defines; "" if it is no type, a member of one defined
// outside it, or a specialization of a template.
std::string type_of(const std::vector<std::string>& head) {
  size_t at = 0;
  for (int angles = 0; at < head.size(); ++at) {
    if (head[at] == "<") ++angles;
    if (head[at] == ">") --angles;
    if (angles == 0 && (head[at] == "(" || head[at] == "=")) return "";
    if (angles == 0 && (head[at] == "class" || head[at] == "struct" || head[at] == "union" || head[at] == "enum"))
      break;
  }
  std::string name;
  for (int brackets = 0; ++at < head.size();) {
    const std::string& word = head[at];
    if (word == "(" && !name.empty()) return "";  // a function that returns one
    if (word == "(" || word == "[") ++brackets;
    if (word == ")" || word == "]") --brackets;
    if (brackets > 0 || word == ")" || word == "]" || word == "alignas" || word == "class" || word == "struct")
      continue;
    if (word == ":" || word == "final") break;
    if (word == "::" || word == "<") return "";
    name = word;
  }
  return name;
}

// The types of a file that other files can see: those at namespace scope, in no namespace without a name.
std::set<std::string> types_in(const fs::path& path) {
  std::set<std::string> types;
  std::vector<bool> scopes;  // true: a namespace with a name
  std::vector<std::string> head;
  const auto visible = [&] { return std::find(scopes.begin(), scopes.end(), false) == scopes.end(); };
  for (const std::string& token : tokens_in(path)) {
    if (token == "{") {
      const bool is_namespace = !head.empty() && head.front() == "namespace";
      if (visible() && !is_namespace) {
        if (std::string name = type_of(head); !name.empty()) types.insert(std::move(name));
      }
      scopes.push_back(is_namespace && head.size() > 1);
    } else if (token == "}") {
      if (!scopes.empty()) scopes.pop_back();
    } else if (token == ";") {
      if (head.size() > 3 && head[0] == "using" && head[2] == "=" && visible()) types.insert(head[1]);
    } else {
      head.push_back(token);
      continue;
    }
    head.clear();
  }
  return types;
}

// The namespaces that a file opens at its outermost level, without those that have no name.
std::set<std::string> namespaces_in(const fs::path& path) {
  std::set<std::string> opened;
  std::string head;
  int depth = 0;
  for (const std::string& token : tokens_in(path)) {
    constexpr std::string_view kWord = "namespace ";
    if (token == "{" && depth++ == 0 && head.starts_with(kWord)) opened.insert(head.substr(kWord.size()));
    if (token == "}") --depth;
    if (token == "{" || token == "}" || token == ";") {
      head.clear();
    } else {
      head += token + (token == "namespace" ? " " : "");
    }
  }
  return opened;
}

// The folder's own namespace: baton::kv of src/kv, baton of src/base.
std::string namespace_of(const std::string& file) {
  const std::string folder = file.starts_with("src/") ? file.substr(4, file.find('/', 4) - 4) : "apps";
  return folder == "base" ? "baton" : "baton::" + folder;
}

// The namespaces of `file` that are neither its folder's nor inside it. std is open for specializations.
std::vector<std::string> foreign_namespaces(const std::string& file, const std::set<std::string>& opened) {
  const std::string home = namespace_of(file);
  std::vector<std::string> foreign;
  for (const std::string& name : opened) {
    const bool inside = file.starts_with("src/base/") ? name == "baton" : name == home || name.starts_with(home + "::");
    if (!inside && name != "std") foreign.push_back(name);
  }
  return foreign;
}

// Every C++ file of the tree, from its root.
std::vector<std::string> files() {
  const fs::path root(BATON_SOURCE_DIR);
  std::vector<std::string> found;
  for (const char* folder : {"src", "apps"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension == ".h" || extension == ".cc" || extension == ".inc" || extension == ".cuh" || extension == ".cu")
        found.push_back(fs::relative(entry.path(), root).string());
    }
  }
  return found;
}

// Names that may stand in several files.
const std::set<std::string> kAllowed = {
    // Of the instruction set that a file is compiled for.
    "TagF",
    "VecF",
};

TEST(Names, NoTwoTypesHaveOne) {
  std::map<std::string, std::vector<std::string>> definitions;
  for (const std::string& file : files()) {
    for (const std::string& type : types_in(fs::path(BATON_SOURCE_DIR) / file)) definitions[type].push_back(file);
  }
  EXPECT_GT(definitions.size(), 300U);
  for (const auto& [name, where] : definitions) {
    if (where.size() == 1 || kAllowed.contains(name)) continue;
    std::string all;
    for (const std::string& file : where) all += " " + file;
    ADD_FAILURE() << name << " is defined in" << all;
  }
}

TEST(Names, AFilesNamespaceIsItsFolders) {
  for (const std::string& file : files()) {
    for (const std::string& name : foreign_namespaces(file, namespaces_in(fs::path(BATON_SOURCE_DIR) / file)))
      ADD_FAILURE() << file << " opens namespace " << name << ", not " << namespace_of(file);
  }
}

TEST(Names, TheTestSeesAForeignNamespace) {
  const std::set<std::string> opened = {"baton", "baton::kv", "baton::kv::inner", "baton::kvx", "std"};
  EXPECT_EQ(foreign_namespaces("src/kv/a.h", opened), (std::vector<std::string>{"baton", "baton::kvx"}));
  EXPECT_EQ(foreign_namespaces("src/base/a.h", opened),
            (std::vector<std::string>{"baton::kv", "baton::kv::inner", "baton::kvx"}));
}

TEST(Names, TheTestSeesWhatAFileDefines) {
  const fs::path path = fs::temp_directory_path() / ("baton-names-" + std::to_string(::getpid()) + ".h");
  std::ofstream(path) << R"cc(
#define OPEN {
    // struct Comment {};
    namespace a::b {
    template <typename T = std::vector<int>>
    class [[nodiscard]] Template final : public Base<T> {
      struct Nested {};
    };
    struct alignas(64) Aligned {};
    enum class Kind : int { kA };
    using Alias = int;
    struct Forward;
    struct Outer::Member {};
    template <>
    struct Template<int> {};
    const char* text = R"(struct InText {)"
                       "struct Quoted {";
    char brace = '{', quote = '\'';
    int separated = 1'000;
    struct stat* function(struct Parameter* p) {
      struct Local {};
      using Inner = int;
    }
    namespace {
    struct Hidden {};
    }
    }
    struct Global {};
  )cc";
  const std::set<std::string> types = types_in(path);
  const std::set<std::string> namespaces = namespaces_in(path);
  fs::remove(path);
  EXPECT_EQ(namespaces, (std::set<std::string>{"a::b"}));
  EXPECT_EQ(types, (std::set<std::string>{"Template", "Aligned", "Kind", "Alias", "Global"}));
}

}  // namespace
}  // namespace baton
