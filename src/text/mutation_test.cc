// Damaged files of a tokenizer load or are refused with a message; what loads can be used. A check that fails ends the
// program, so a seed that fails is the last one printed.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/test_dir.h"
#include "text/chat_template.h"
#include "text/json_mutator.h"
#include "text/tokenizer_config.h"
#include "text/utf8.h"

namespace baton::text {
namespace {

const std::filesystem::path kRoot = BATON_SOURCE_DIR;

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

constexpr const char* kSentencePiece = R"({"version":"1.0","added_tokens":[
  {"id":0,"content":"<unk>","special":true},{"id":40,"content":"<s>","special":true,"normalized":false,"lstrip":true}],
  "normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"_"},
    {"type":"Replace","pattern":{"String":" "},"content":"_"}]},
  "pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":true},
  "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],
    "special_tokens":{"<s>":{"id":"<s>","ids":[10],"tokens":["<s>"]}}},
  "decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"_"},"content":" "},
    {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},
  "model":{"type":"BPE","unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"ignore_merges":false,
    "vocab":{"<unk>":0,"<0x41>":1,"<0xE4>":2,"_":3,"a":4,"aa":5,"_a":6,"l":7,"o":8,"lo":9},
    "merges":["a a","_ a",["l","o"]]}})";

constexpr const char* kConfig = R"({"tokenizer_class":"LlamaTokenizerFast","add_bos_token":true,"add_eos_token":false,
  "bos_token":{"__type":"AddedToken","content":"a","lstrip":false,"normalized":true,"special":true},"eos_token":"l",
  "pad_token":null,"additional_special_tokens":["lo",{"content":"x"}],"model_max_length":4096,
  "added_tokens_decoder":{"0":{"content":"<unk>","special":true},"7":{"content":"l","lstrip":true,"rstrip":true}},
  "chat_template":[{"name":"default","template":"{{ messages[0].content }}"}]})";

void use(const ModelTokenizer& model) {
  EncodeLimits limits;
  limits.cpu_max = std::chrono::seconds(2);
  limits.tokens_max = 100'000;
  const std::string text = "Hello, w\u00F6rld 123  \n\n<s>\u4F60\u597D " + std::string(300, 'a');
  const auto ids = model.tokenizer.encode(text, true, limits);
  if (ids) {
    EXPECT_TRUE(is_valid_utf8(model.tokenizer.decode(*ids, false)));
    for (const int32_t id : *ids) EXPECT_TRUE(id >= 0 && id < model.tokenizer.vocab_size());
  } else {
    EXPECT_FALSE(ids.error().message.empty());
  }
  for (const ChatTemplateSource& source : model.config.chat_templates) {
    const auto parsed = ChatTemplate::parse(source.text);
    if (!parsed) continue;
    jinja::RenderLimits render_limits;
    render_limits.steps_max = 100'000;
    (void)parsed->render({{"messages", boost::json::array{{{"role", "user"}, {"content", "x"}}}}}, render_limits);
  }
}

TEST(Mutations, DamagedTokenizerFiles) {
  const TempDir temp;
  const std::filesystem::path dir = temp.path();
  const boost::json::value tokenizers[] = {boost::json::parse(read(kRoot / "tests/fixtures/tokenizers/options.json")),
                                           boost::json::parse(kSentencePiece),
                                           boost::json::parse(read(kRoot / "models/tiny-gqa/tokenizer.json"))};
  const boost::json::value config = boost::json::parse(kConfig);
  int loaded = 0;
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    test::JsonMutator mutator(seed);
    std::string what;
    // The large document is mostly vocabulary: a damaged one without most of it reaches the rest more often.
    boost::json::value tokenizer = tokenizers[seed % 4 == 0 ? 2 : seed % 2];
    const bool damage_config = seed % 3 == 0;
    std::ofstream(dir / "tokenizer.json")
        << (damage_config ? boost::json::serialize(tokenizer) : mutator.mutate(tokenizer, &what));
    std::ofstream(dir / "tokenizer_config.json")
        << (damage_config ? mutator.mutate(config, &what) : boost::json::serialize(config));
    std::ofstream(dir / "special_tokens_map.json") << (seed % 5 == 0 ? mutator.mutate(config, &what) : "{}");
    SCOPED_TRACE(fmt::format("seed {}:{}", seed, what));
    const auto model = load_model_tokenizer(dir);
    if (!model) {
      EXPECT_FALSE(model.error().message.empty());
      EXPECT_LT(model.error().message.size(), 1000U);
      continue;
    }
    ++loaded;
    use(*model);
  }
  EXPECT_GT(loaded, 150);
}

TEST(Mutations, DamagedTemplates) {
  std::vector<std::string> sources;
  for (const auto& entry : std::filesystem::directory_iterator(kRoot / "tests/fixtures/chat_templates")) {
    if (entry.path().extension() == ".jinja") sources.push_back(read(entry.path()));
  }
  ASSERT_GT(sources.size(), 10U);
  const boost::json::object context = {
      {"messages", boost::json::array{{{"role", "system"}, {"content", "x"}},
                                      {{"role", "user"}, {"content", "hello"}},
                                      {{"role", "assistant"}, {"content", "<think>a</think>b"}}}},
      {"tools", boost::json::array{{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", {{"a", 1}}}}}}}},
      {"add_generation_prompt", true},
      {"bos_token", "<s>"},
      {"eos_token", "</s>"}};
  const std::string_view pieces[] = {"{{",      "}}",     "{%",          "%}",    " if ",   " for x in messages ",
                                     "|",       ".",      "(",           ")",     "[",      "]",
                                     "'",       "*",      " ~ ",         "endif", "endfor", "set x = ",
                                     "|tojson", "[::-1]", "namespace()", "{#",    "-",      "%",
                                     " in ",    "9"};
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    test::JsonMutator random(seed);
    std::string source = sources[random.below(sources.size())];
    for (uint64_t i = 0, n = 1 + random.below(4); i < n; ++i) {
      const size_t at = random.below(source.size());
      const size_t length = random.below(12);
      source.replace(at, length, pieces[random.below(std::size(pieces))]);
    }
    SCOPED_TRACE(seed);
    const auto parsed = ChatTemplate::parse(source);
    if (!parsed) {
      EXPECT_LT(parsed.error().message.size(), 2000U);
      continue;
    }
    jinja::RenderLimits limits;
    limits.steps_max = 200'000;
    (void)parsed->render(context, limits);
  }
}

}  // namespace
}  // namespace baton::text
