// Tokenizers made from SentencePiece's models against tests/fixtures/tokenizers/sentencepiece.golden.json, made by
// tools/tokenizer/sentencepiece_golden.py with the reference.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_to.hpp>

#include <fstream>
#include <iterator>

#include "text/streaming_detokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

namespace json = boost::json;

class SentencePiece : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::ifstream file(BATON_SOURCE_DIR "/tests/fixtures/tokenizers/sentencepiece.golden.json");
    golden_ = json::parse(std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>()));
  }

  // The file's families share their pieces and merges.
  static std::string tokenizer_json(const json::value& family) {
    json::object vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
    for (const json::value& byte : family.at("bytes").as_array()) {
      vocab[fmt::format("<0x{:02X}>", byte.as_int64())] = vocab.size();
    }
    for (const json::value& piece : golden_.at("pieces").as_array()) vocab[piece.as_string()] = vocab.size();
    json::object model = family.at("model").as_object();
    model["vocab"] = std::move(vocab);
    model["merges"] = golden_.at("merges");
    json::object spec = family.at("spec").as_object();
    spec["model"] = std::move(model);
    return json::serialize(spec);
  }
  static Tokenizer load(std::string_view name) {
    for (const json::value& family : golden_.at("families").as_array()) {
      if (family.at("name").as_string() == name) return Tokenizer::from_json(tokenizer_json(family)).value();
    }
    ADD_FAILURE() << "no " << name;
    std::abort();
  }
  static std::vector<int32_t> ids_of(const json::value& list) { return json::value_to<std::vector<int32_t>>(list); }

  static std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
    StreamingDetokenizer stream(tokenizer, {.skip_special = false});
    std::string text;
    for (const int32_t id : ids) text += stream.push(id);
    return text + stream.finish();
  }

  static json::value golden_;
};
json::value SentencePiece::golden_;

TEST_F(SentencePiece, IdsAndTextsAreTheReferences) {
  for (const json::value& family : golden_.at("families").as_array()) {
    SCOPED_TRACE(family.at("name").as_string());
    const auto tokenizer = Tokenizer::from_json(tokenizer_json(family));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    for (const json::value& entry : family.at("cases").as_array()) {
      const std::string text(entry.at(0).as_string());
      const std::vector<int32_t> ids = ids_of(entry.at(1));
      EXPECT_EQ(tokenizer->encode(text, false).value(), ids) << "'" << text << "'";
      EXPECT_EQ(tokenizer->decode(ids, false), std::string_view(entry.at(2).as_string())) << "'" << text << "'";
      EXPECT_EQ(tokenizer->decode(ids, true), std::string_view(entry.at(3).as_string())) << "'" << text << "'";
      std::vector<int32_t> with_bos = ids;
      with_bos.insert(with_bos.begin(), 1);
      EXPECT_EQ(tokenizer->encode(text, true).value(), with_bos);
    }
    for (const json::value& entry : family.at("decodes").as_array()) {
      EXPECT_EQ(tokenizer->decode(ids_of(entry.at(0)), false), std::string_view(entry.at(1).as_string()))
          << json::serialize(entry.at(0));
    }
  }
}

// A stream goes on from a prompt: its first token keeps its space.
TEST_F(SentencePiece, StreamsShowEveryTokenAtOnce) {
  const Tokenizer llama = load("llama 2");
  const std::vector<int32_t> ids = llama.encode("Hello, \u4F60\u597D the end", false).value();
  EXPECT_EQ(streamed(llama, ids), " Hello, \u4F60\u597D the end");
  for (const json::value& entry : golden_.at("families").at(0).at("cases").as_array()) {
    const std::vector<int32_t> all = ids_of(entry.at(1));
    EXPECT_TRUE(streamed(llama, all).ends_with(llama.decode(all, false))) << entry.at(0);
  }
}

TEST_F(SentencePiece, AStreamOfByteTokens) {
  const Tokenizer llama = load("llama 2");
  const auto byte = [&](int value) { return llama.token_id(fmt::format("<0x{:02X}>", value)).value(); };
  const int32_t word = llama.token_id("the").value();
  StreamingDetokenizer stream(llama, {});
  EXPECT_EQ(stream.push(byte(0xE4)), "");
  EXPECT_EQ(stream.push(byte(0xBD)), "");
  EXPECT_EQ(stream.push(byte(0xA0)), "\u4F60");
  EXPECT_EQ(stream.push(byte(0xE4)), "");
  EXPECT_EQ(stream.push(byte(0xBD)), "");
  EXPECT_EQ(stream.push(word), "\uFFFD\uFFFDthe");
  EXPECT_EQ(stream.push(byte(0xA0)), "");
  EXPECT_EQ(stream.push(byte(0x41)), "");
  EXPECT_EQ(stream.finish(), "\uFFFD\uFFFD");
  EXPECT_EQ(stream.push(byte(0x41)), "A");
  EXPECT_EQ(stream.finish(), "");
}

TEST_F(SentencePiece, WorkGrowsWithTheText) {
  for (const char* name : {"llama 2, legacy", "metaspace always"}) {
    const Tokenizer tokenizer = load(name);
    for (const std::string unit : {"x", " ", "\n", "\u4E2D", " the", "ab c"}) {
      const auto work_of = [&](size_t bytes) {
        std::string text;
        while (text.size() < bytes) text += unit;
        return static_cast<double>(tokenizer.encode_work(text));
      };
      EXPECT_LT(work_of(1 << 17) / work_of(1 << 16), 2.2) << name << " '" << unit << "'";
    }
  }
}

// Without a pre-tokenizer a text is one piece, which must not be merged to its end to see that it is too long.
TEST_F(SentencePiece, WhatCannotFitIsRefused) {
  const Tokenizer llama = load("llama 2, legacy");
  const std::vector<int32_t> ids = llama.encode("Hello, world!", false).value();
  EncodeLimits limits;
  limits.tokens_max = ids.size();
  EXPECT_EQ(llama.encode("Hello, world!", false, limits).value(), ids);
  limits.tokens_max = ids.size() - 1;
  EXPECT_FALSE(llama.encode("Hello, world!", false, limits).ok());
  EXPECT_FALSE(llama.encode(std::string(64 << 20, 'a'), false, limits).ok());
}

TEST_F(SentencePiece, RefusalsNameThePath) {
  const json::value family = golden_.at("families").at(0);
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"decoder", "null", "decoder: no ByteLevel, Metaspace or Fuse"},
      {"decoder", R"({"type":"ByteLevel"})", "decoder: ByteLevel must be in both"},
      {"decoder", R"({"type":"WordPiece"})", "decoder: decoder \"WordPiece\" is not supported"},
      {"decoder", R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]})",
       "decoder.decoders[1]: decoder \"ByteFallback\" is not supported in this place"},
      {"decoder", R"({"type":"Sequence","decoders":[{"type":"Strip","content":" ","start":1,"stop":0}]})",
       "decoder.decoders[0]: decoder \"Strip\""},
      {"decoder",
       R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":"ab","start":1,"stop":0}]})",
       "not one character"},
      {"decoder", R"({"type":"Replace","pattern":{"Regex":"a"},"content":"b"})", "decoder.pattern: a Regex"},
      {"decoder", R"({"type":"Replace","pattern":{"String":"a"},"content":"bbbbb"})", "4 times"},
      {"normalizer", R"({"type":"Replace","pattern":{"String":""},"content":"b"})", "an empty pattern"},
      {"normalizer", R"({"type":"Replace","pattern":{"String":"a"},"content":"01234567890123456"})", "16 times"},
      {"normalizer", R"({"type":"Precompiled"})", "normalizer \"Precompiled\" is not supported"},
      {"pre_tokenizer", R"({"type":"Metaspace","replacement":"ab"})", "pre_tokenizer.replacement: \"ab\" is not one"},
      {"pre_tokenizer", R"({"type":"Metaspace","replacement":"_","prepend_scheme":"x"})", "\"x\" is unknown"},
      {"pre_tokenizer", R"({"type":"Metaspace","replacement":"_","add_prefix_space":false})", "add_prefix_space false"},
      {"model", R"({"type":"Unigram","unk_id":0,"vocab":[["a",-1.5]]})", "model \"Unigram\" is not supported (BPE is)"},
  };
  for (const auto& [key, value, message] : cases) {
    json::object spec = json::parse(tokenizer_json(family)).as_object();
    spec[key] = json::parse(value);
    const auto tokenizer = Tokenizer::from_json(json::serialize(spec));
    ASSERT_FALSE(tokenizer.ok()) << value;
    EXPECT_THAT(tokenizer.error().message, testing::HasSubstr(message)) << value;
  }
}

}  // namespace
}  // namespace baton::text
