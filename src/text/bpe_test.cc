#include "text/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <random>

namespace baton::text {
namespace {

// A model over the letters a, b, c with random merges, and the merges as a map.
struct RandomModel {
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  std::vector<std::string> tokens = {"a", "b", "c"};

  explicit RandomModel(unsigned seed) {
    std::mt19937 random(seed);
    for (size_t i = 0; i < 40; ++i) {
      const std::string left = tokens[random() % tokens.size()];
      const std::string right = tokens[random() % tokens.size()];
      if (ranks.emplace(std::pair(left, right), ranks.size()).second && !contains(left + right))
        tokens.push_back(left + right);
    }
  }

  [[nodiscard]] bool contains(const std::string& token) const {
    return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
  }

  [[nodiscard]] std::string json() const {
    std::string vocab, merges;
    for (size_t i = 0; i < tokens.size(); ++i) vocab += fmt::format("{}\"{}\":{}", i ? "," : "", tokens[i], i);
    std::vector<std::string> by_rank(ranks.size());
    for (const auto& [pair, rank] : ranks) by_rank[rank] = fmt::format("[\"{}\",\"{}\"]", pair.first, pair.second);
    for (const std::string& merge : by_rank) merges += (merges.empty() ? "" : ",") + merge;
    return fmt::format(R"({{"type":"BPE","vocab":{{{}}},"merges":[{}]}})", vocab, merges);
  }

  // The definition: of the pairs that merge, the one of lowest rank, the leftmost of these; until none does.
  [[nodiscard]] std::vector<std::string> merge(const std::string& text) const {
    std::vector<std::string> parts;
    for (char c : text) parts.emplace_back(1, c);
    while (true) {
      size_t best = parts.size(), best_rank = ranks.size();
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = ranks.find({parts[i], parts[i + 1]});
        if (found != ranks.end() && found->second < best_rank) best = i, best_rank = found->second;
      }
      if (best == parts.size()) return parts;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
  }
};

Result<Bpe> bpe_of(std::string_view json) {
  BATON_ASSIGN(const JsonDocument document, JsonDocument::parse(json, "model"));
  return Bpe::from_json(document.root(), BpeUnit::kByte);
}

// Lengths on both sides of the switch from scan to heap.
RC_GTEST_PROP(Bpe, MergesByRankFromTheLeft, (unsigned seed)) {
  const RandomModel model(seed);
  const Bpe bpe = bpe_of(model.json()).value();
  const int length = *rc::gen::inRange(0, 120);
  const auto text = *rc::gen::container<std::string>(length, rc::gen::element('a', 'b', 'c'));
  std::vector<int32_t> ids;
  EncodeBudget budget({});
  bpe.encode(text, ids, budget);
  std::vector<std::string> found;
  found.reserve(ids.size());
  for (int32_t id : ids) found.push_back(model.tokens[id]);
  RC_ASSERT(found == model.merge(text));
}

// Ids without a byte token are dropped, or become unk_token, fused or not.
TEST(Bpe, UnknownBytes) {
  const auto encode = [](std::string_view options) {
    const auto json = fmt::format(R"({{"vocab":{{"a":0,"b":1,"?":2,"ab":3}},"merges":["a b"]{}}})", options);
    std::vector<int32_t> ids;
    EncodeBudget budget({});
    bpe_of(json).value().encode("axxbab", ids, budget);
    return ids;
  };
  EXPECT_EQ(encode(""), (std::vector<int32_t>{3, 3}));  // what is dropped leaves no gap
  EXPECT_EQ(encode(R"(,"unk_token":"?")"), (std::vector<int32_t>{0, 2, 2, 1, 3}));
  EXPECT_EQ(encode(R"(,"unk_token":"?","fuse_unk":true)"), (std::vector<int32_t>{0, 2, 1, 3}));
}

TEST(Bpe, IgnoreMergesTakesAWholePieceThatIsAToken) {
  const std::string json = R"({"vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4},"merges":[["a","b"]],"ignore_merges":)";
  std::vector<int32_t> with, without;
  EncodeBudget budget({});
  bpe_of(json + "true}").value().encode("abc", with, budget);
  bpe_of(json + "false}").value().encode("abc", without, budget);
  EXPECT_EQ(with, (std::vector<int32_t>{4}));
  EXPECT_EQ(without, (std::vector<int32_t>{3, 2}));
}

struct RefusedModel {
  const char* json;
  const char* message;
};

TEST(Bpe, RefusesWithThePath) {
  const RefusedModel cases[] = {
      {R"({"type":"Unigram","vocab":{},"merges":[]})", "model \"Unigram\" is not supported"},
      {R"({"vocab":{"a":0}})", "merges: a value expected, found null or nothing"},
      {R"({"vocab":[],"merges":[]})", "vocab: an object expected, found an array"},
      {R"({"vocab":{"a":-1},"merges":[]})", "vocab[\"a\"]: -1 is not in [0, 2^31)"},
      {R"({"vocab":{"a":0,"b":0},"merges":[]})", "vocab[\"b\"]: id 0 is also the id of \"a\""},
      {R"({"vocab":{"a":0,"b":1},"merges":["a b"]})", "merges[0]: \"ab\" is not in the vocabulary"},
      {R"({"vocab":{"a":0},"merges":["a"]})", "merges[0]: a merge is two tokens"},
      {R"({"vocab":{"a":0},"merges":[["a"]]})", "merges[0]: a merge has 2 parts, found 1"},
      {R"({"vocab":{"a":0},"merges":[7]})", "merges[0]: a string expected, found a number"},
      {R"({"vocab":{},"merges":[],"dropout":0.1})", "dropout: dropout makes the ids random"},
      {R"({"vocab":{},"merges":[],"byte_fallback":true})", "byte_fallback true does not go with"},
      {R"({"vocab":{},"merges":[],"end_of_word_suffix":"</w>"})", "end_of_word_suffix: \"</w>\" is not supported"},
      {R"({"vocab":{},"merges":[],"unk_token":"?"})", "unk_token: \"?\" is not in the vocabulary"},
  };
  for (const RefusedModel& c : cases) {
    const auto bpe = bpe_of(c.json);
    ASSERT_FALSE(bpe.ok()) << c.json;
    EXPECT_THAT(bpe.error().message, testing::HasSubstr(c.message));
  }
}

}  // namespace
}  // namespace baton::text
