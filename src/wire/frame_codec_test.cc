#include "wire/frame_codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "base/random.h"

namespace baton::wire {
namespace {

Manifest sample_manifest() {
  Manifest m;
  m.incarnation = {1, 2};
  m.role = InstanceRole::kDecode;
  m.model_digest = {3, 4};
  m.geometry = {.layers = 61, .kv_heads = 1, .k_dim = 576, .v_dim = 0, .element_size = 2};
  m.kv_dtype = "bfloat16";
  m.layout = {.tp = 8, .dp = 2, .pp = 2, .ep = 4};
  m.page_tokens = 64;
  m.pages_per_group = 1000;
  m.writer_policy = layout::WriterPolicy::kFirst;
  m.fanout = layout::Fanout::kLocal;
  m.transport = "tcp";
  m.transport_blob = std::string("blob\0with zero", 14);
  for (uint32_t i = 0; i < 16; ++i) m.regions.push_back({i, 1ull << 40});
  return m;
}

Bytes32 bytes32(uint8_t first) {
  Bytes32 bytes{};
  for (uint8_t& byte : bytes) byte = first++;
  return bytes;
}

Grant sample_grant() {
  Grant grant;
  grant.attempt = AttemptId(77);
  grant.decode = {1, 2};
  grant.prefill = {3, 4};
  grant.dp_rank = 1;
  grant.prompt_tokens = 200;
  grant.cached_tokens = 64;
  grant.window_secret = 0xfeed;
  grant.budget_ms = 30000;
  for (uint32_t i = 0; i < 4; ++i) grant.pages.push_back({PageId(i * 7), i + 1});
  return grant;
}

Commit sample_commit() {
  Commit commit;
  commit.attempt = AttemptId(INT64_MAX);
  commit.decode = {1, 2};
  commit.prefill = {3, 4};
  commit.grant_digest = 9;
  commit.first = {.token = -1,
                  .logprob = -0.25f,
                  .top_logprobs = {{5, -0.25f}, {6, -1.5f}},
                  .listed = {-3, -0.25f},
                  .finished = true};
  commit.cached_tokens = 128;
  commit.bytes = 1 << 30;
  commit.copies = 12;
  commit.durations = {Duration(1), Duration(2), Duration(3)};
  commit.checksum_pages = 3;
  commit.checksums = {1, 2, 3, 4, 5, std::numeric_limits<uint64_t>::max()};
  return commit;
}

std::vector<Frame> samples() {
  return {sample_manifest(),
          Accept{0x0123456789abcdef, bytes32(7)},
          Refuse{"model digest 3f.. there 9a.."},
          sample_grant(),
          sample_commit(),
          Release{AttemptId(1), 11},
          Cancel{AttemptId(2), 12, true, "deadline"},
          Drained{AttemptId(3), 13},
          Ping{4},
          Pong{5},
          Hello{{2, 9}, InstanceRole::kDecode, true, bytes32(1)},
          Proof{bytes32(3)},
          PromptLogprobs{AttemptId(4), 14, 7, {{}, {true, -0.5f, {{5, -0.25f}, {6, -1.5f}}, {-3}}}}};
}

std::string encoded(const Frame& frame) {
  std::string bytes;
  encode_frame(frame, &bytes);
  return bytes;
}

TEST(FrameCodec, RoundTripOfEveryType) {
  const std::vector<Frame> frames = samples();
  ASSERT_EQ(frames.size(), std::variant_size_v<Frame>);
  for (size_t i = 0; i < frames.size(); ++i) {
    ASSERT_EQ(frames[i].index(), i);
    const std::string bytes = encoded(frames[i]);
    ASSERT_EQ(frame_length(bytes, kFrameBytesMax).value(), bytes.size());
    const Result<Frame> back = decode_frame(bytes);
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(*back, frames[i]) << frame_name(frames[i]);
  }
}

TEST(FrameCodec, BytesOfACancelAreFixed) {
  const std::string expected("\x1f\0\0\0BTNH\4\0\7\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0\1\2\0\0\0hi", 35);
  EXPECT_EQ(encoded(Cancel{AttemptId(2), 3, true, "hi"}), expected);
}

TEST(FrameCodec, TruncationAtEveryByteIsAnError) {
  for (const Frame& frame : samples()) {
    const std::string bytes = encoded(frame);
    for (size_t n = 0; n < bytes.size(); ++n) {
      EXPECT_FALSE(decode_frame(std::string_view(bytes).substr(0, n)).ok()) << frame_name(frame) << " cut at " << n;
      if (n < kFrameHeaderBytes) continue;
      std::string shorter = bytes.substr(0, n);  // with a length field that agrees
      const auto length = static_cast<uint32_t>(n - 4);
      std::memcpy(shorter.data(), &length, 4);
      EXPECT_FALSE(decode_frame(shorter).ok()) << frame_name(frame) << " shortened to " << n;
    }
    std::string longer = bytes + '\0';
    const auto length = static_cast<uint32_t>(longer.size() - 4);
    std::memcpy(longer.data(), &length, 4);
    EXPECT_FALSE(decode_frame(longer).ok()) << frame_name(frame) << " with a byte too many";
  }
}

TEST(FrameCodec, UnknownVersionTypeMagicAndLength) {
  std::string bytes = encoded(Ping{1});
  bytes[8] = 99;
  EXPECT_EQ(decode_frame(bytes).error().code, ErrorCode::kIncompatible);
  bytes = encoded(Ping{1});
  bytes[10] = 99;
  EXPECT_EQ(decode_frame(bytes).error().code, ErrorCode::kCorrupt);
  bytes = encoded(Ping{1});
  bytes[4] = 'X';
  EXPECT_FALSE(frame_length(bytes, kFrameBytesMax).ok());
  EXPECT_FALSE(frame_length("GET / HTTP/1.1\r\n", kFrameBytesMaxUnpaired).ok());
  EXPECT_FALSE(frame_length(std::string("\7\0\0\0", 4), kFrameBytesMax).ok());
  EXPECT_EQ(frame_length("\x20", kFrameBytesMax).value(), 0u);
}

// Instances of any two versions must understand how they greet and refuse each other.
TEST(FrameCodec, BytesOfAHelloAreFixedAndOfAnyVersion) {
  const Hello hello{{2, 3}, InstanceRole::kDecode, true, bytes32(0x61)};
  std::string expected("\x2e\0\0\0BTNH\4\0\x0b\0\2\0\3\0\2\1", 18);
  for (int c = 0x61; c < 0x61 + 32; ++c) expected += static_cast<char>(c);
  EXPECT_EQ(encoded(hello), expected);
  for (const Frame& frame : {Frame(hello), Frame(Refuse{"no"})}) {
    std::string bytes = encoded(frame);
    bytes[8] = 99;
    EXPECT_EQ(decode_frame(bytes).value(), frame);
  }
}

TEST(FrameCodec, TheHighestCommonVersionIsSpoken) {
  EXPECT_EQ(common_version({2, 2}, {1, 5}).value(), 2);
  EXPECT_EQ(common_version({2, 7}, {3, 5}).value(), 5);
  EXPECT_EQ(common_version({3, 5}, {2, 7}).value(), 5);
  EXPECT_EQ(common_version({2, 3}, {3, 9}).value(), 3);
  for (const VersionRange there : {VersionRange{3, 9}, {0, 1}, {9, 2}, {3, 1}, {0xffff, 0}}) {
    const Result<uint16_t> none = common_version({2, 2}, there);
    ASSERT_FALSE(none.ok()) << there.min << " to " << there.max;
    EXPECT_EQ(none.error().code, ErrorCode::kIncompatible);
  }
  EXPECT_EQ(common_version({2, 2}, {3, 9}).error().message,
            "this instance speaks handoff protocol 2 to 2, the peer 3 to 9: run the same version on both");
  std::string bytes;
  encode_frame(Ping{1}, &bytes, 4);
  EXPECT_TRUE(decode_frame(bytes, 4).ok());
  EXPECT_EQ(decode_frame(bytes, 2).error().code, ErrorCode::kIncompatible);
}

TEST(FrameCodec, CountsAreBoundedByTheBytesThatAreThere) {
  // A grant that claims a million pages in a frame of a few bytes must fail before it allocates for them.
  std::string bytes = encoded(sample_grant());
  const uint32_t claimed = kGrantPagesMax;
  std::memcpy(bytes.data() + bytes.size() - 4 * 8 - 4, &claimed, 4);
  EXPECT_FALSE(decode_frame(bytes).ok());
  // And logprobs of as many tokens, in a row and in rows.
  for (const size_t back : {4 + 4, 4 + 4 + 8 + 4 + 5 + 4}) {
    bytes = encoded(PromptLogprobs{AttemptId(4), 14, 7, {{true, -0.5f, {{5, -0.25f}}, {-3}}}});
    const uint32_t many = 1000;
    std::memcpy(bytes.data() + bytes.size() - back, &many, 4);
    EXPECT_FALSE(decode_frame(bytes).ok());
  }
  const std::string zero = encoded(Release{AttemptId(0), 1});
  EXPECT_FALSE(decode_frame(zero).ok()) << "attempt 0";
}

TEST(FrameCodec, RandomBytesNeverCrashAndFlippedBitsNeverReadPastTheEnd) {
  Random random(1);
  for (const Frame& frame : samples()) {
    const std::string bytes = encoded(frame);
    for (int i = 0; i < 3000; ++i) {
      std::string mutated = bytes;
      for (uint64_t flips = 1 + random.below(4); flips > 0; --flips)
        mutated[random.below(mutated.size())] ^= static_cast<char>(1u << random.below(8));
      const Result<Frame> back = decode_frame(mutated);
      if (!back.ok()) continue;
      // But for the version of those that have the same bytes in all.
      if (std::holds_alternative<Hello>(*back) || std::holds_alternative<Refuse>(*back))
        mutated.replace(8, 2, bytes, 8, 2);
      EXPECT_EQ(encoded(*back), mutated) << "accepted bytes must have one meaning";
    }
  }
  for (int i = 0; i < 20000; ++i) {
    std::string noise = encoded(Ping{0}).substr(0, kFrameHeaderBytes);
    noise[10] = static_cast<char>(1 + random.below(13));
    for (uint64_t n = random.below(200); n > 0; --n) noise += static_cast<char>(random.next());
    const auto length = static_cast<uint32_t>(noise.size() - 4);
    std::memcpy(noise.data(), &length, 4);
    (void)decode_frame(noise);
  }
}

TEST(FrameCodec, DigestOfAGrantTellsGenerationsApart) {
  Grant grant = sample_grant();
  const uint64_t before = grant_digest(grant);
  ++grant.pages[2].generation;
  EXPECT_NE(grant_digest(grant), before);
}

}  // namespace
}  // namespace baton::wire
