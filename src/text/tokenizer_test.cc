#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <thread>

#include "text/byte_alphabet.h"
#include "text/json_node.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

const std::filesystem::path kFixtures = std::filesystem::path(BATON_SOURCE_DIR) / "tests/fixtures/tokenizers";

Tokenizer fixture(const std::string& name) { return Tokenizer::load(kFixtures / (name + ".json")).value(); }

TEST(Tokenizer, KnowsItsTokens) {
  const Tokenizer llama = fixture("llama3");
  EXPECT_EQ(llama.vocab_size(), 900);
  EXPECT_EQ(llama.token_id("<|eot_id|>"), 2);
  EXPECT_TRUE(llama.is_special(2));
  EXPECT_EQ(llama.token_bytes(2), "<|eot_id|>");
  const auto space_t = llama.token_id("\xC4\xA0t");  // "Ġt"
  ASSERT_TRUE(space_t.has_value());
  EXPECT_EQ(llama.token_bytes(*space_t), " t");
  EXPECT_EQ(llama.token_text(*space_t), "\xC4\xA0t");
  EXPECT_FALSE(llama.is_special(*space_t));
  for (int32_t id : {-1, 900, 1 << 30}) {
    EXPECT_EQ(llama.token_bytes(id), "");
    EXPECT_FALSE(llama.is_special(id));
  }
  EXPECT_EQ(llama.token_id("no such token"), std::nullopt);
}

TEST(Tokenizer, InvalidUtf8IsReadAsReplacementCharacters) {
  const Tokenizer qwen = fixture("qwen2");
  EXPECT_EQ(qwen.encode("a\xFF\xE4\xB8", false).value(), qwen.encode("a\xEF\xBF\xBD\xEF\xBF\xBD", false).value());
  EXPECT_EQ(qwen.encode("\xED\xA0\x80", false).value(),
            qwen.encode("\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", false).value());
}

RC_GTEST_PROP(Tokenizer, DecodingGivesTheTextBack, (const std::vector<uint8_t>& bytes)) {
  static const Tokenizer llama = fixture("llama3");
  const std::string text(bytes.begin(), bytes.end());
  RC_ASSERT(llama.decode(llama.encode(text, false).value(), false) == replace_invalid_utf8(text));
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer deepseek = fixture("deepseek");
  const std::string text = "Hello, world! 12345 \xE4\xB8\xAD\xE6\x96\x87 <\xEF\xBD\x9CUser\xEF\xBD\x9C> don't\n\n";
  const auto expected = deepseek.encode(text, true).value();
  std::vector<std::thread> threads;
  threads.reserve(4);
  std::atomic<int> wrong = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 200; ++j) wrong += deepseek.encode(text, true).value() != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// Twice the text may be at most a little over twice the work, whatever it is made of.
TEST(Tokenizer, WorkGrowsWithTheText) {
  for (const char* name : {"deepseek", "llama3", "qwen2"}) {
    const Tokenizer tokenizer = fixture(name);
    for (const std::string unit :
         {"x", " ", "\n", "\t", "1", "!", "\xE4\xB8\xAD", "\xCC\x81", "the", " the", "\r\n", "ab c", "<|"}) {
      const auto work_of = [&](size_t bytes) {
        std::string text;
        while (text.size() < bytes) text += unit;
        return static_cast<double>(tokenizer.encode_work(text));
      };
      EXPECT_LT(work_of(1 << 17) / work_of(1 << 16), 2.1) << name << " '" << unit << "'";
      EXPECT_LT(work_of(1 << 17), 8.0 * (1 << 17)) << name << " '" << unit << "'";
    }
  }
}

// A text is given up while it is cut only if it could not have fitted.
RC_GTEST_PROP(Tokenizer, ABoundOnTokensRefusesWhatHasMoreAndNothingElse, (const std::vector<uint8_t>& bytes)) {
  static const std::vector<Tokenizer> tokenizers = [] {
    std::vector<Tokenizer> all;
    for (const char* name : {"deepseek", "llama3", "qwen2"}) all.push_back(fixture(name));
    return all;
  }();
  std::string text(bytes.begin(), bytes.end());
  for (char& c : text) c = static_cast<char>("ab 1\n.'\xc3\xa9"[static_cast<uint8_t>(c) % 9]);
  for (const Tokenizer& tokenizer : tokenizers) {
    const std::vector<int32_t> ids = tokenizer.encode(text, false).value();
    EncodeLimits limits;
    limits.tokens_max = ids.size();
    RC_ASSERT(tokenizer.encode(text, false, limits).value() == ids);
    if (ids.empty()) continue;
    limits.tokens_max = ids.size() - 1;
    RC_ASSERT(!tokenizer.encode(text, false, limits).ok());
  }
}

TEST(Tokenizer, TakesAMegabyteOfOneKind) {
  for (const char* name : {"deepseek", "llama3", "qwen2"}) {
    const Tokenizer tokenizer = fixture(name);
    for (char c : {'x', ' ', '\n', '7', '.'}) {
      const std::string text(1'000'000, c);
      EXPECT_TRUE(tokenizer.decode(tokenizer.encode(text, false).value(), false) == text) << name << " '" << c << "'";
    }
  }
}

TEST(Tokenizer, ComposesHangulOnlyOfItsThreeParts) {
  const Tokenizer qwen = fixture("qwen2");
  const auto composed = [&](std::string_view text) { return qwen.decode(qwen.encode(text, false).value(), false); };
  EXPECT_EQ(composed("\u1100\u1161\u11A8"), "\uAC01");
  EXPECT_EQ(composed("\uAC00\u11A8"), "\uAC01");
  EXPECT_EQ(composed("\uAC00\u11A7"), "\uAC00\u11A7");  // a vowel, next to the first final consonant
  EXPECT_EQ(composed("\u1100\u1161\u11A7\u11A8"), "\uAC00\u11A7\u11A8");
  EXPECT_EQ(composed("\uAC00\u11C3"), "\uAC00\u11C3");
}

// Hours, if marks were put in order by swapping neighbours.
TEST(Tokenizer, OrdersAMegabyteOfMarks) {
  constexpr size_t kMarks = 250'000;
  const auto many = [](std::string_view text, size_t times) {
    std::string out;
    while (times-- > 0) out += text;
    return out;
  };
  const Tokenizer qwen = fixture("qwen2");
  const std::string above = "\u0301", below = "\u0316", vowels = "\u0F73";  // classes 230 and 220; 129 and 130 in one
  EXPECT_TRUE(qwen.decode(qwen.encode("a" + many(above + below, kMarks), false).value(), false) ==
              "\u00E1" + many(below, kMarks) + many(above, kMarks - 1));
  EXPECT_TRUE(qwen.decode(qwen.encode(many(vowels, kMarks), false).value(), false) ==
              many("\u0F71", kMarks) + many("\u0F72", kMarks));
}

struct Refused {
  const char* key;    // member of a good file
  const char* value;  // put in its place
  const char* message;
};

constexpr const char* kByteLevel = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";

std::string file_with(std::string_view key, std::string_view value) {
  std::string json = "{\"version\":\"1.0\"";
  const std::pair<std::string_view, std::string_view> members[] = {
      {"added_tokens", R"([{"id":3,"content":"<s>","special":true}])"},
      {"normalizer", "null"},
      {"pre_tokenizer", kByteLevel},
      {"post_processor", "null"},
      {"decoder", kByteLevel},
      {"model", R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})"}};
  for (const auto& [name, good] : members) json += fmt::format(",\"{}\":{}", name, name == key ? value : good);
  return json + "}";
}

TEST(Tokenizer, RefusesUnknownComponentsWithTheirPath) {
  ASSERT_TRUE(Tokenizer::from_json(file_with("", "")).ok());
  const Refused cases[] = {
      {"normalizer", R"({"type":"Lowercase"})", "normalizer: normalizer \"Lowercase\" is not supported"},
      {"normalizer", R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"NFKC"}]})",
       "normalizer.normalizers[1]: normalizer \"NFKC\""},
      {"pre_tokenizer", "null", "decoder: ByteLevel must be in both"},
      {"pre_tokenizer", R"({"type":"Metaspace"})", "pre_tokenizer.replacement: a value expected"},
      {"pre_tokenizer", R"({"type":"BertPreTokenizer"})", "pre-tokenizer \"BertPreTokenizer\" is not supported"},
      {"pre_tokenizer",
       R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\h"},"behavior":"Isolated","invert":false}]})",
       "pre_tokenizer.pretokenizers[0].pattern.Regex: regular expression, offset 0: '\\h' is not supported"},
      {"pre_tokenizer", R"({"type":"Split","pattern":{"String":"a"},"behavior":"Odd"})",
       "pre_tokenizer.behavior: behavior \"Odd\""},
      {"pre_tokenizer", R"({"type":"Split","behavior":"Isolated"})", "pre_tokenizer.pattern: a value expected"},
      {"pre_tokenizer", R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})",
       "pre_tokenizer.pretokenizers[1]: \"Digits\" after ByteLevel"},
      {"post_processor", R"({"type":"BertProcessing"})",
       "post_processor: post-processor \"BertProcessing\" is not supported"},
      {"post_processor", R"({"type":"TemplateProcessing","single":[]})",
       "post_processor.single: a template with 0 sequences"},
      {"decoder", "null", "decoder: no ByteLevel"},
      {"decoder", R"({"type":"Sequence","decoders":[{"type":"Strip"}]})", "decoder.decoders[0]: decoder \"Strip\""},
      {"decoder", R"({"type":"CTC"})", "decoder: decoder \"CTC\" is not supported"},
      {"model", R"({"type":"WordPiece","vocab":{},"merges":[]})", "model: model \"WordPiece\" is not supported"},
      {"model", "7", "model: an object expected, found a number"},
      {"added_tokens", R"([{"id":3}])", "added_tokens[0].content: a value expected"},
  };
  for (const Refused& c : cases) {
    const auto tokenizer = Tokenizer::from_json(file_with(c.key, c.value));
    ASSERT_FALSE(tokenizer.ok()) << c.value;
    EXPECT_THAT(tokenizer.error().message, testing::HasSubstr(c.message));
  }
}

// The reference counts on from the model's size, whatever ids are written down.
TEST(Tokenizer, IdsOfAddedTokensAreTheReferences) {
  const auto tokenizer = Tokenizer::from_json(
      file_with("added_tokens", R"([{"id":3,"content":"<s>","special":true},{"id":300,"content":"<x>","special":true},)"
                                R"({"id":7,"content":"b"},{"id":4,"content":"<y>"}])"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ(tokenizer->encode("<s><x>b<y>", false).value(), (std::vector<int32_t>{3, 4, 1, 5}));
  EXPECT_EQ(tokenizer->vocab_size(), 6);
}

TEST(Tokenizer, TokensFromBesideTheFile) {
  const auto token = [](const char* content, bool special, bool lstrip) {
    AddedToken added;
    added.content = content;
    added.special = special;
    added.lstrip = lstrip;
    return added;
  };
  TokensBeside more;
  more.added = {token("<s>", false, true), token("<new>", true, false)};
  more.specials = {token("ab", true, false), token("<s>", true, false), token("<unknown>", true, false)};
  const auto tokenizer = Tokenizer::from_json(file_with("", ""), more);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  // <s> takes its new flags and stays special; ab, which only the model had, is special now; <unknown> is not made up.
  const std::vector<int32_t> ids = tokenizer->encode("a <s>ab<new>", false).value();
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 3, 2, 4}));
  EXPECT_EQ(tokenizer->decode(ids, true), "a");
  EXPECT_EQ(tokenizer->token_id("<unknown>"), std::nullopt);
  EXPECT_EQ(tokenizer->vocab_size(), 5);
}

TEST(Tokenizer, EveryTruncationIsAnError) {
  const std::string json = file_with("", "");
  for (size_t length = 0; length < json.size(); ++length) {
    const auto tokenizer = Tokenizer::from_json(std::string_view(json).substr(0, length));
    ASSERT_FALSE(tokenizer.ok()) << length;
    EXPECT_EQ(tokenizer.error().code, ErrorCode::kCorrupt);
  }
  EXPECT_EQ(Tokenizer::load("/nonexistent/tokenizer.json").error().code, ErrorCode::kNotFound);
}

// A file with bytes changed loads or is refused; what loads can be used.
RC_GTEST_PROP(Tokenizer, SurvivesDamagedFiles, (const std::vector<std::pair<size_t, char>>& changes)) {
  std::string json = file_with("normalizer", R"({"type":"Sequence","normalizers":[{"type":"NFC"}]})");
  for (const auto& [at, byte] : changes) json[at % json.size()] = byte;
  const auto tokenizer = Tokenizer::from_json(json);
  if (!tokenizer) {
    RC_ASSERT(!tokenizer.error().message.empty());
    return;
  }
  const auto ids = tokenizer->encode("ab<s>abc", true).value();
  RC_ASSERT(is_valid_utf8(tokenizer->decode(ids, true)));
}

// The vocabulary of tools/tokenizer/golden.py, pair_model: a piece that begins one byte off changes its ids.
std::string pair_model() {
  const auto quoted = [](std::string_view text) {
    std::string out = "\"";
    for (char c : text) out += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c};
    return out + '"';
  };
  std::string vocab, merges;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    vocab +=
        fmt::format("{}{}:{}", byte ? "," : "", quoted(token_of_bytes(std::string(1, static_cast<char>(byte)))), byte);
  }
  for (uint32_t k = 0; k < 65536; ++k) {
    const uint32_t pair = (k * 40503 + 12345) % 65536;
    const std::string left = token_of_bytes(std::string(1, static_cast<char>(pair >> 8)));
    const std::string right = token_of_bytes(std::string(1, static_cast<char>(pair & 255)));
    vocab += fmt::format(",{}:{}", quoted(left + right), 256 + k);
    merges += fmt::format("{}[{},{}]", k ? "," : "", quoted(left), quoted(right));
  }
  return fmt::format(R"({{"type":"BPE","vocab":{{{}}},"merges":[{}]}})", vocab, merges);
}

std::string fnv1a(const std::vector<int32_t>& ids) {
  uint64_t value = 0xCBF29CE484222325;
  for (int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8)
      value = (value ^ (static_cast<uint32_t>(id) >> shift & 255)) * 0x100000001B3;
  }
  return fmt::format("{:016x}", value);
}

// The code points of tools/tokenizer/golden.py.
std::vector<char32_t> code_points() {
  std::vector<char32_t> points;
  for (char32_t c = 0; c < 0xE0200; ++c) {
    if (c == 0xD800) c = 0xE000;
    if (c == 0x32400) c = 0xE0000;
    points.push_back(c);
  }
  return points;
}

TEST(Tokenizer, CutsEveryCodePointWhereTheReferenceDoes) {
  const auto golden = JsonDocument::load(kFixtures / "boundaries.golden.json");
  ASSERT_TRUE(golden.ok()) << golden.error().message;
  const auto texts = golden->root().member("texts")->array();
  const auto block = static_cast<size_t>(golden->root().member("block")->index().value());
  const std::string model = pair_model();
  const std::vector<char32_t> points = code_points();
  const auto families = golden->root().member("families")->array();
  ASSERT_EQ(families->size(), 5u);
  for (const JsonNode& family : *families) {
    const std::string json =
        fmt::format(R"({{"normalizer":{},"pre_tokenizer":{},"decoder":{},"model":{}}})",
                    simdjson::to_string(family.optional_member("normalizer").element()),
                    simdjson::to_string(family.member("pre_tokenizer")->element()), kByteLevel, model);
    const auto tokenizer = Tokenizer::from_json(json);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    const auto name = family.member("name")->string().value();
    const auto ids = family.member("ids")->array();
    ASSERT_EQ(ids->size(), texts->size());
    for (size_t i = 0; i < texts->size(); ++i) {
      EXPECT_EQ(tokenizer->encode((*texts)[i].string().value(), false).value(), (*ids)[i].indices().value())
          << name << " text " << i;
    }
    const auto blocks = family.member("blocks")->array();
    ASSERT_EQ(blocks->size(), (points.size() + block - 1) / block);
    for (size_t i = 0; i < points.size(); i += block) {
      std::vector<int32_t> all;
      for (size_t j = i; j < std::min(i + block, points.size()); ++j) {
        std::string c;
        append_utf8(c, points[j]);
        const auto found = tokenizer->encode("a" + c + "1 " + c + c + "\n", false).value();
        all.insert(all.end(), found.begin(), found.end());
      }
      EXPECT_EQ(fnv1a(all), (*blocks)[i / block].string().value())
          << name << " code points from U+" << std::hex << static_cast<uint32_t>(points[i]);
    }
  }
}

}  // namespace
}  // namespace baton::text
