#include "wire/frame_codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "base/random.h"

namespace baton {
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
  m.model_name = "deepseek";
  m.writer_policy = WriterPolicy::kFirst;
  m.fanout = Fanout::kLocal;
  m.transport = "tcp";
  m.transport_blob = std::string("blob\0with zero", 14);
  for (uint32_t i = 0; i < 16; ++i) m.regions.push_back({i, 1ull << 40});
  return m;
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
  commit.first = {.token = -1, .logprob = -0.25f, .top_logprobs = {{5, -0.25f}, {6, -1.5f}}, .finished = true};
  commit.bytes = 1 << 30;
  commit.copies = 12;
  commit.durations = {Duration(1), Duration(2), Duration(3)};
  commit.checksum_pages = 3;
  commit.checksums = {1, 2, 3, 4, 5, std::numeric_limits<uint64_t>::max()};
  return commit;
}

std::vector<Frame> samples() {
  return {sample_manifest(),
          Accept{0x0123456789abcdef},
          Refuse{"model digest 3f.. there 9a.."},
          sample_grant(),
          sample_commit(),
          Release{AttemptId(1), 11},
          Cancel{AttemptId(2), 12, true, "deadline"},
          Drained{AttemptId(3), 13},
          Ping{4},
          Pong{5}};
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
  const std::string expected("\x1f\0\0\0BTNH\1\0\7\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0\1\2\0\0\0hi", 35);
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

TEST(FrameCodec, CountsAreBoundedByTheBytesThatAreThere) {
  // A grant that claims a million pages in a frame of a few bytes must fail before it allocates for them.
  std::string bytes = encoded(sample_grant());
  const uint32_t claimed = kGrantPagesMax;
  std::memcpy(bytes.data() + bytes.size() - 4 * 8 - 4, &claimed, 4);
  EXPECT_FALSE(decode_frame(bytes).ok());
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
      if (back.ok()) {
        EXPECT_EQ(encoded(*back), mutated) << "accepted bytes must have one meaning";
      }
    }
  }
  for (int i = 0; i < 20000; ++i) {
    std::string noise = encoded(Ping{0}).substr(0, kFrameHeaderBytes);
    noise[10] = static_cast<char>(1 + random.below(10));
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
}  // namespace baton
