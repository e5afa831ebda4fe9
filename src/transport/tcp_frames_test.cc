#include "transport/tcp_frames.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "base/byte_io.h"
#include "transport/test_support.h"

namespace baton::transport::tcp {
namespace {

using namespace baton::transport::testing;

std::span<const std::byte> body_of(const std::string& frame) { return as_span(frame).subspan(kHeaderBytes); }

TEST(TcpFrames, EveryFrameComesBackAsItWas) {
  const WriterHello hello{{1, 2}, {3, 4}};
  const auto hello_back = decode_hello(body_of(encode(hello))).value();
  EXPECT_EQ(hello_back.writer, hello.writer);
  EXPECT_EQ(hello_back.owner, hello.owner);

  const auto welcome = decode_welcome(body_of(encode(Welcome{false, "stale"}))).value();
  EXPECT_FALSE(welcome.accepted);
  EXPECT_EQ(welcome.detail, "stale");

  WriteFrame write{.post = 7,
                   .token = token(5, 6),
                   .payload_bytes = 300,
                   .runs = {{RegionId(1), 2, 10, 100, 4096}, {RegionId(3), 1, 0, 100, 0}}};
  const std::string bytes = encode(write, true, false);
  const auto header = decode_header(as_span(bytes).first(kHeaderBytes)).value();
  EXPECT_EQ(header.type, FrameType::kWrite);
  EXPECT_EQ(header.flags, kFirstFrame);
  EXPECT_EQ(header.body_bytes, bytes.size() - kHeaderBytes);
  const auto write_back = decode_write(body_of(bytes)).value();
  EXPECT_EQ(write_back.post, write.post);
  EXPECT_EQ(write_back.token, write.token);
  EXPECT_EQ(write_back.runs, write.runs);

  const auto result = decode_result(body_of(encode(ResultFrame{9, 300, TransferOutcome::kRejected, "why"}))).value();
  EXPECT_EQ(result.post, 9u);
  EXPECT_EQ(result.bytes, 300u);
  EXPECT_EQ(result.outcome, TransferOutcome::kRejected);
  EXPECT_EQ(result.detail, "why");
  EXPECT_EQ(decode_cancel(body_of(encode_cancel(11))).value(), 11u);
}

TEST(TcpFrames, CutOffAndLongerBodiesAreCorrupt) {
  const WriteFrame write{.post = 7, .token = token(5), .payload_bytes = 100, .runs = {{RegionId(1), 1, 0, 100, 0}}};
  struct Case {
    const char* name;
    std::string frame;
    bool (*decodes)(std::span<const std::byte>);
  };
  const Case cases[] = {
      {"hello", encode(WriterHello{}), [](auto b) { return decode_hello(b).ok(); }},
      {"welcome", encode(Welcome{true, "x"}), [](auto b) { return decode_welcome(b).ok(); }},
      {"write", encode(write, true, true), [](auto b) { return decode_write(b).ok(); }},
      {"result", encode(ResultFrame{1, 2, TransferOutcome::kDone, "x"}), [](auto b) { return decode_result(b).ok(); }},
      {"cancel", encode_cancel(1), [](auto b) { return decode_cancel(b).ok(); }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_TRUE(c.decodes(body_of(c.frame)));
    for (size_t n = kHeaderBytes; n < c.frame.size(); ++n) EXPECT_FALSE(c.decodes(body_of(c.frame.substr(0, n)))) << n;
    EXPECT_FALSE(c.decodes(body_of(c.frame + "x")));
  }
}

TEST(TcpFrames, HeadersThatAreNotOursAreCorrupt) {
  const std::string good = encode(WriterHello{}).substr(0, kHeaderBytes);
  ASSERT_TRUE(decode_header(as_span(good)).ok());
  struct Case {
    const char* name;
    size_t at;
    char value;
  };
  for (const Case& c : {Case{"magic", 0, 'X'}, Case{"version in the magic", 3, '2'}, Case{"type 0", 4, 0},
                        Case{"type 6", 4, 6}, Case{"flags", 5, 1}, Case{"reserved", 6, 1}, Case{"size", 8, 33},
                        Case{"huge size", 11, '\xff'}, Case{"reserved end", 15, 1}}) {
    std::string bad = good;
    bad[c.at] = c.value;
    EXPECT_EQ(decode_header(as_span(bad)).error().code, ErrorCode::kCorrupt) << c.name;
  }
}

TEST(TcpFrames, RunsThatDoNotAddUpAreCorrupt) {
  struct Case {
    const char* name;
    uint64_t payload;
    std::vector<BlockRun> runs;
  };
  const Case cases[] = {
      {"payload too small", 99, {{RegionId(1), 1, 0, 100, 0}}},
      {"payload without runs", 1, {}},
      {"no blocks", 0, {{RegionId(1), 0, 0, 100, 0}}},
      {"empty blocks", 0, {{RegionId(1), 1, 0, 0, 0}}},
      {"too many blocks", kFrameBlocksMax + 1, {{RegionId(1), kFrameBlocksMax + 1, 0, 1, 1}}},
      {"product that overflows", 0, {{RegionId(1), 1u << 31, 0, uint64_t{1} << 33, 0}}},
      {"a block above the frame's limit", kFramePayloadMax + 1, {{RegionId(1), 1, 0, kFramePayloadMax + 1, 0}}},
      {"a sum above the frame's limit", kFramePayloadMax + 2, {{RegionId(1), 2, 0, kFramePayloadMax / 2 + 1, 0}}},
  };
  for (const Case& c : cases) {
    const WriteFrame frame{.post = 1, .token = token(1), .payload_bytes = c.payload, .runs = c.runs};
    EXPECT_EQ(decode_write(body_of(encode(frame, true, true))).error().code, ErrorCode::kCorrupt) << c.name;
  }
}

RC_GTEST_PROP(TcpFrames, RunsNameTheBlocksInOrder, (const std::vector<std::tuple<bool, uint8_t, uint8_t>>& steps)) {
  std::vector<std::pair<uint64_t, uint64_t>> blocks;
  std::vector<BlockRun> runs;
  uint64_t offset = 1 << 20;
  for (const auto& [back, step, length] : steps) {
    offset += back ? -static_cast<uint64_t>(step % 4) * 64 : static_cast<uint64_t>(step % 4) * 64;
    blocks.emplace_back(offset, 1 + length % 2);
    append_run(&runs, RegionId(1), offset, 1 + length % 2);
  }
  std::vector<std::pair<uint64_t, uint64_t>> named;
  for (const BlockRun& run : runs) {
    for (uint32_t i = 0; i < run.count; ++i) named.emplace_back(run.block_offset(i), run.length);
  }
  RC_ASSERT(named == blocks);
}

TEST(TcpFrames, EquallySpacedBlocksAreOneRun) {
  std::vector<BlockRun> runs;
  for (uint64_t i = 0; i < 1000; ++i) append_run(&runs, RegionId(1), i * 8192, 4096);
  EXPECT_EQ(runs, (std::vector<BlockRun>{{RegionId(1), 1000, 0, 4096, 8192}}));
}

}  // namespace
}  // namespace baton::transport::tcp
