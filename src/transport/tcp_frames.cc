#include "transport/tcp_frames.h"

#include <algorithm>

#include "base/byte_io.h"

namespace baton::transport::tcp {
namespace {

constexpr uint32_t kMagic = 0x314e5442;  // "BTN1"

constexpr size_t kBodySizeAt = 8;

// A frame's header, whose body size end_frame() fills in.
ByteWriter begin_frame(std::string* bytes, FrameType type, uint8_t flags = 0) {
  ByteWriter out(bytes);
  out.number(kMagic);
  out.number(static_cast<uint8_t>(type));
  out.number(flags);
  out.number(uint16_t{0});
  out.number(uint32_t{0});
  out.number(uint32_t{0});
  return out;
}

std::string end_frame(std::string bytes) {
  const auto size = static_cast<uint32_t>(bytes.size() - kHeaderBytes);
  std::memcpy(bytes.data() + kBodySizeAt, &size, sizeof(size));
  return bytes;
}

void write_detail(ByteWriter& out, std::string_view text) { out.text<uint16_t>(text.substr(0, kDetailMax)); }

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

std::string encode(const WriterHello& frame) {
  std::string bytes;
  ByteWriter out = begin_frame(&bytes, FrameType::kHello);
  out.incarnation(frame.writer);
  out.incarnation(frame.owner);
  return end_frame(std::move(bytes));
}

std::string encode(const Welcome& frame) {
  std::string bytes;
  ByteWriter out = begin_frame(&bytes, FrameType::kWelcome);
  out.number(static_cast<uint8_t>(frame.accepted ? 1 : 0));
  write_detail(out, frame.detail);
  return end_frame(std::move(bytes));
}

std::string encode(const WriteFrame& frame, bool first, bool last) {
  std::string bytes;
  ByteWriter out =
      begin_frame(&bytes, FrameType::kWrite, static_cast<uint8_t>((first ? kFirstFrame : 0) | (last ? kLastFrame : 0)));
  out.number(frame.post);
  out.number(frame.token.attempt.value());
  out.number(frame.token.secret);
  out.number(frame.payload_bytes);
  out.number(static_cast<uint32_t>(frame.runs.size()));
  out.number(uint32_t{0});
  for (const BlockRun& r : frame.runs) {
    out.number(r.region.value());
    out.number(r.count);
    out.number(r.offset);
    out.number(r.length);
    out.number(r.stride);
  }
  return end_frame(std::move(bytes));
}

std::string encode(const ResultFrame& frame) {
  std::string bytes;
  ByteWriter out = begin_frame(&bytes, FrameType::kResult);
  out.number(frame.post);
  out.number(frame.bytes);
  out.number(static_cast<uint8_t>(frame.outcome));
  write_detail(out, frame.detail);
  return end_frame(std::move(bytes));
}

std::string encode_cancel(uint64_t post) {
  std::string bytes;
  ByteWriter out = begin_frame(&bytes, FrameType::kCancel);
  out.number(post);
  return end_frame(std::move(bytes));
}

Result<FrameHeader> decode_header(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  const uint32_t magic = in.number<uint32_t>();
  const uint8_t type = in.number<uint8_t>();
  const uint8_t flags = in.number<uint8_t>();
  const uint16_t zero16 = in.number<uint16_t>();
  const uint32_t body_bytes = in.number<uint32_t>();
  const uint32_t zero32 = in.number<uint32_t>();
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

Result<WriterHello> decode_hello(std::span<const std::byte> body) {
  ByteReader in(body);
  WriterHello hello{.writer = in.incarnation(), .owner = {}};
  hello.owner = in.incarnation();
  if (!in.complete()) return error(ErrorCode::kCorrupt, "a hello of {} bytes", body.size());
  return hello;
}

Result<Welcome> decode_welcome(std::span<const std::byte> body) {
  ByteReader in(body);
  const uint8_t accepted = in.number<uint8_t>();
  Welcome welcome{.accepted = accepted == 1, .detail = in.text<uint16_t>(kDetailMax)};
  if (!in.complete() || accepted > 1) return error(ErrorCode::kCorrupt, "a malformed welcome of {} bytes", body.size());
  return welcome;
}

Result<WriteFrame> decode_write_head(std::span<const std::byte> head, uint32_t body_bytes) {
  ByteReader in(head.first(std::min(head.size(), kWriteHeadBytes)));
  WriteFrame frame;
  frame.post = in.number<uint64_t>();
  frame.token.attempt = AttemptId(in.number<uint64_t>());
  frame.token.secret = in.number<uint64_t>();
  frame.payload_bytes = in.number<uint64_t>();
  const uint64_t runs = in.number<uint32_t>();
  const uint32_t zero = in.number<uint32_t>();
  if (!in.complete() || zero != 0 || runs > kFrameBlocksMax || body_bytes != kWriteHeadBytes + runs * kRunBytes) {
    return error(ErrorCode::kCorrupt, "a write of {} bytes that claims {} runs", body_bytes, runs);
  }
  if (frame.payload_bytes > kFramePayloadMax) {
    return error(ErrorCode::kCorrupt, "a write with a payload of {} bytes, {} are possible", frame.payload_bytes,
                 kFramePayloadMax);
  }
  return frame;
}

Result<WriteFrame> decode_write(std::span<const std::byte> body) {
  BATON_ASSIGN(WriteFrame frame, decode_write_head(body, static_cast<uint32_t>(body.size())));
  ByteReader in(body.subspan(kWriteHeadBytes));
  const uint64_t runs = in.left() / kRunBytes;
  frame.runs.reserve(runs);
  uint64_t blocks = 0;
  uint64_t bytes = 0;
  for (uint64_t i = 0; i < runs; ++i) {
    BlockRun run{.region = RegionId(in.number<uint32_t>()),
                 .count = in.number<uint32_t>(),
                 .offset = in.number<uint64_t>(),
                 .length = in.number<uint64_t>(),
                 .stride = in.number<uint64_t>()};
    blocks += run.count;
    // Both factors are bounded before they are multiplied: 2^12 * 2^20, at most 2^12 times.
    if (run.count == 0 || blocks > kFrameBlocksMax || run.length == 0 || run.length > kFramePayloadMax) {
      return error(ErrorCode::kCorrupt, "a run of {} blocks of {} bytes", run.count, run.length);
    }
    bytes += run.count * run.length;
    frame.runs.push_back(run);
  }
  if (!in.complete() || bytes != frame.payload_bytes) {
    return error(ErrorCode::kCorrupt, "runs of {} bytes in a frame with a payload of {}", bytes, frame.payload_bytes);
  }
  return frame;
}

Result<ResultFrame> decode_result(std::span<const std::byte> body) {
  ByteReader in(body);
  ResultFrame frame{.post = in.number<uint64_t>(), .bytes = in.number<uint64_t>(), .outcome = {}, .detail = {}};
  const uint8_t outcome = in.number<uint8_t>();
  frame.detail = in.text<uint16_t>(kDetailMax);
  frame.outcome = static_cast<TransferOutcome>(outcome);
  const bool known = frame.outcome == TransferOutcome::kDone || frame.outcome == TransferOutcome::kRejected ||
                     frame.outcome == TransferOutcome::kCancelled;
  if (!in.complete() || !known)
    return error(ErrorCode::kCorrupt, "a result of {} bytes with outcome {}", body.size(), outcome);
  return frame;
}

Result<uint64_t> decode_cancel(std::span<const std::byte> body) {
  ByteReader in(body);
  const uint64_t post = in.number<uint64_t>();
  if (!in.complete()) return error(ErrorCode::kCorrupt, "a cancel of {} bytes", body.size());
  return post;
}

}  // namespace baton::transport::tcp
