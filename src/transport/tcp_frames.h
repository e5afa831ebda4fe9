// The bytes of the tcp transport, version 1. All fields little endian.
//
// A connection carries posts one way. The writer opens it and says HELLO; the owner of the memory answers WELCOME. A
// post is one or more WRITE frames, in order and not mixed with another post's, each a list of runs followed by its
// payload; the owner answers each post with one RESULT, after its last byte is in place or as soon as it is refused
// (what still comes of it is read and dropped). CANCEL asks for the RESULT of a post whose remaining frames will not
// come.
//
// clang-format off
//
//   header   u32 magic "BTN1" | u8 type | u8 flags | u16 zero | u32 body bytes | u32 zero
//   HELLO    writer's incarnation 16 | owner's incarnation 16
//   WELCOME  u8 accepted | text
//   WRITE    u64 post | u64 attempt | u64 secret | u64 payload bytes | u32 runs | u32 zero | runs; payload follows the body
//     run    u32 region | u32 count | u64 offset | u64 length | u64 stride
//            count blocks of length bytes at offset + i * stride, modulo 2^64
//   RESULT   u64 post | u64 bytes applied | u8 outcome | text
//   CANCEL   u64 post
//
//   text     u16 bytes | that many bytes, for people
// clang-format on
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "transport/transport.h"

namespace baton::transport::tcp {

inline constexpr size_t kHeaderBytes = 16;
inline constexpr uint64_t kFramePayloadMax = uint64_t{1} << 20;
inline constexpr uint32_t kFrameBlocksMax = 4096;
inline constexpr uint16_t kDetailMax = 400;
inline constexpr size_t kRunBytes = 32;
inline constexpr size_t kWriteHeadBytes = 40;
inline constexpr size_t kBodyMax = kWriteHeadBytes + kFrameBlocksMax * kRunBytes;

enum class FrameType : uint8_t { kHello = 1, kWelcome = 2, kWrite = 3, kResult = 4, kCancel = 5 };
inline constexpr uint8_t kFirstFrame = 1;  // flags of WRITE: the first and the last frame of a post
inline constexpr uint8_t kLastFrame = 2;

struct FrameHeader {
  FrameType type = FrameType::kHello;
  uint8_t flags = 0;
  uint32_t body_bytes = 0;
};

struct WriterHello {
  Incarnation writer;
  Incarnation owner;
};

struct Welcome {
  bool accepted = false;
  std::string detail;
};

struct BlockRun {
  RegionId region;
  uint32_t count = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t stride = 0;  // between starts; modulo 2^64, so that descending blocks are a run too
  [[nodiscard]] uint64_t block_offset(uint32_t i) const { return offset + i * stride; }
  bool operator==(const BlockRun&) const = default;
};

struct WriteFrame {
  uint64_t post = 0;
  WindowToken token;
  uint64_t payload_bytes = 0;
  std::vector<BlockRun> runs;
};

struct ResultFrame {
  uint64_t post = 0;
  uint64_t bytes = 0;
  TransferOutcome outcome = TransferOutcome::kFailed;
  std::string detail;
};

// Adds a block to the list, as one more of the last run where it continues it.
void append_run(std::vector<BlockRun>* runs, RegionId region, uint64_t offset, uint64_t length);

[[nodiscard]] std::string encode(const WriterHello& frame);
[[nodiscard]] std::string encode(const Welcome& frame);
[[nodiscard]] std::string encode(const WriteFrame& frame, bool first, bool last);
[[nodiscard]] std::string encode(const ResultFrame& frame);
[[nodiscard]] std::string encode_cancel(uint64_t post);

// All decoders: kCorrupt for anything but what the comment above allows. Sizes are judged before memory is taken for
// them.
Result<FrameHeader> decode_header(std::span<const std::byte> bytes);
Result<WriterHello> decode_hello(std::span<const std::byte> body);
Result<Welcome> decode_welcome(std::span<const std::byte> body);
// The first kWriteHeadBytes of a write with a body of `body_bytes`: all but the runs.
Result<WriteFrame> decode_write_head(std::span<const std::byte> head, uint32_t body_bytes);
Result<WriteFrame> decode_write(std::span<const std::byte> body);
Result<ResultFrame> decode_result(std::span<const std::byte> body);
Result<uint64_t> decode_cancel(std::span<const std::byte> body);

}  // namespace baton::transport::tcp
