#include "transport/tcp_frames.h"

#include "transport/bytes.h"

namespace baton::tcp {
namespace {

constexpr uint32_t kMagic = 0x314e5442;  // "BTN1"

std::string with_header(FrameType type, uint8_t flags, const std::string& body) {
  FieldWriter out;
  out.u32(kMagic);
  out.u8(static_cast<uint8_t>(type));
  out.u8(flags);
  out.u16(0);
  out.u32(static_cast<uint32_t>(body.size()));
  out.u32(0);
  return out.take() + body;
}

// The body sizes that a type can have.
struct BodyBounds {
  uint32_t least;
  uint32_t most;
};

std::optional<BodyBounds> body_bounds(uint8_t type) {
  switch (static_cast<FrameType>(type)) {
    case FrameType::kHello:
      return BodyBounds{32, 32};
    case FrameType::kWelcome:
      return BodyBounds{3, 3 + kDetailMax};
    case FrameType::kWrite:
      return BodyBounds{kWriteHeadBytes, kBodyMax};
    case FrameType::kResult:
      return BodyBounds{19, 19 + kDetailMax};
    case FrameType::kCancel:
      return BodyBounds{8, 8};
  }
  return std::nullopt;
}

}  // namespace

void append_run(std::vector<BlockRun>* runs, RegionId region, uint64_t offset, uint64_t length) {
  if (!runs->empty()) {
    BlockRun& last = runs->back();
    if (last.region == region && last.length == length) {
      if (last.count == 1) last.stride = offset - last.offset;
      if (last.block_offset(last.count) == offset) {
        ++last.count;
        return;
      }
      if (last.count == 1) last.stride = 0;
    }
  }
  runs->push_back({region, 1, offset, length, 0});
}

std::string encode(const Hello& frame) {
  FieldWriter body;
  body.incarnation(frame.writer);
  body.incarnation(frame.owner);
  return with_header(FrameType::kHello, 0, body.str());
}

std::string encode(const Welcome& frame) {
  FieldWriter body;
  body.u8(frame.accepted ? 1 : 0);
  body.text(frame.detail, kDetailMax);
  return with_header(FrameType::kWelcome, 0, body.str());
}

std::string encode(const WriteFrame& frame, bool first, bool last) {
  FieldWriter body;
  body.u64(frame.post);
  body.u64(frame.token.attempt.value());
  body.u64(frame.token.secret);
  body.u64(frame.payload_bytes);
  body.u32(static_cast<uint32_t>(frame.runs.size()));
  body.u32(0);
  for (const BlockRun& r : frame.runs) {
    body.u32(r.region.value());
    body.u32(r.count);
    body.u64(r.offset);
    body.u64(r.length);
    body.u64(r.stride);
  }
  const int flags = (first ? kFirstFrame : 0) | (last ? kLastFrame : 0);
  return with_header(FrameType::kWrite, static_cast<uint8_t>(flags), body.str());
}

std::string encode(const ResultFrame& frame) {
  FieldWriter body;
  body.u64(frame.post);
  body.u64(frame.bytes);
  body.u8(static_cast<uint8_t>(frame.outcome));
  body.text(frame.detail, kDetailMax);
  return with_header(FrameType::kResult, 0, body.str());
}

std::string encode_cancel(uint64_t post) {
  FieldWriter body;
  body.u64(post);
  return with_header(FrameType::kCancel, 0, body.str());
}

Result<FrameHeader> decode_header(std::span<const std::byte> bytes) {
  FieldReader in(bytes);
  const uint32_t magic = in.u32();
  const uint8_t type = in.u8();
  const uint8_t flags = in.u8();
  const uint16_t zero16 = in.u16();
  const uint32_t body_bytes = in.u32();
  const uint32_t zero32 = in.u32();
  if (!in.complete() || magic != kMagic)
    return error(ErrorCode::kCorrupt, "not a frame of this protocol (magic {:08x})", magic);
  const auto bounds = body_bounds(type);
  if (!bounds) return error(ErrorCode::kCorrupt, "unknown frame type {}", type);
  if (body_bytes < bounds->least || body_bytes > bounds->most) {
    return error(ErrorCode::kCorrupt, "a frame of type {} with a body of {} bytes; {} to {} are possible", type,
                 body_bytes, bounds->least, bounds->most);
  }
  const int known = static_cast<FrameType>(type) == FrameType::kWrite ? kFirstFrame | kLastFrame : 0;
  if ((flags & ~known) != 0 || zero16 != 0 || zero32 != 0)
    return error(ErrorCode::kCorrupt, "a frame with unknown flags");
  return FrameHeader{static_cast<FrameType>(type), flags, body_bytes};
}

Result<Hello> decode_hello(std::span<const std::byte> body) {
  FieldReader in(body);
  Hello hello{.writer = in.incarnation(), .owner = {}};
  hello.owner = in.incarnation();
  if (!in.complete()) return error(ErrorCode::kCorrupt, "a hello of {} bytes", body.size());
  return hello;
}

Result<Welcome> decode_welcome(std::span<const std::byte> body) {
  FieldReader in(body);
  const uint8_t accepted = in.u8();
  Welcome welcome{.accepted = accepted == 1, .detail = in.text(kDetailMax)};
  if (!in.complete() || accepted > 1) return error(ErrorCode::kCorrupt, "a malformed welcome of {} bytes", body.size());
  return welcome;
}

Result<WriteFrame> decode_write(std::span<const std::byte> body) {
  FieldReader in(body);
  WriteFrame frame;
  frame.post = in.u64();
  frame.token.attempt = AttemptId(in.u64());
  frame.token.secret = in.u64();
  frame.payload_bytes = in.u64();
  const uint64_t runs = in.u32();
  const uint32_t zero = in.u32();
  if (!in.ok() || zero != 0 || runs > kFrameBlocksMax || body.size() != kWriteHeadBytes + runs * kRunBytes) {
    return error(ErrorCode::kCorrupt, "a write of {} bytes that claims {} runs", body.size(), runs);
  }
  frame.runs.reserve(runs);
  uint64_t blocks = 0;
  uint64_t bytes = 0;
  for (uint64_t i = 0; i < runs; ++i) {
    BlockRun run{
        .region = RegionId(in.u32()), .count = in.u32(), .offset = in.u64(), .length = in.u64(), .stride = in.u64()};
    blocks += run.count;
    // Both factors are bounded before they are multiplied: 2^12 * 2^20, at most 2^12 times.
    if (run.count == 0 || blocks > kFrameBlocksMax || run.length == 0 || run.length > kFramePayloadMax) {
      return error(ErrorCode::kCorrupt, "a run of {} blocks of {} bytes", run.count, run.length);
    }
    bytes += run.count * run.length;
    frame.runs.push_back(run);
  }
  if (!in.complete() || bytes != frame.payload_bytes || bytes > kFramePayloadMax) {
    return error(ErrorCode::kCorrupt, "runs of {} bytes in a frame with a payload of {}", bytes, frame.payload_bytes);
  }
  return frame;
}

Result<ResultFrame> decode_result(std::span<const std::byte> body) {
  FieldReader in(body);
  ResultFrame frame{.post = in.u64(), .bytes = in.u64(), .outcome = {}, .detail = {}};
  const uint8_t outcome = in.u8();
  frame.detail = in.text(kDetailMax);
  frame.outcome = static_cast<TransferOutcome>(outcome);
  const bool known = frame.outcome == TransferOutcome::kDone || frame.outcome == TransferOutcome::kRejected ||
                     frame.outcome == TransferOutcome::kCancelled;
  if (!in.complete() || !known)
    return error(ErrorCode::kCorrupt, "a result of {} bytes with outcome {}", body.size(), outcome);
  return frame;
}

Result<uint64_t> decode_cancel(std::span<const std::byte> body) {
  FieldReader in(body);
  const uint64_t post = in.u64();
  if (!in.complete()) return error(ErrorCode::kCorrupt, "a cancel of {} bytes", body.size());
  return post;
}

}  // namespace baton::tcp
