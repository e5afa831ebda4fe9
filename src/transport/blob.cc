#include "transport/blob.h"

#include "transport/bytes.h"

namespace baton {
namespace {

constexpr uint32_t kMagic = 0x424e5442;  // "BTNB"
constexpr uint8_t kVersion = 1;
constexpr size_t kAddressMax = 255;

const char* kind_name(uint8_t kind) {
  switch (static_cast<BlobKind>(kind)) {
    case BlobKind::kLoopback:
      return "loopback";
    case BlobKind::kShm:
      return "shm";
    case BlobKind::kTcp:
      return "tcp";
  }
  return "unknown";
}

}  // namespace

std::string encode_blob(const PeerBlob& blob) {
  FieldWriter out;
  out.u32(kMagic);
  out.u8(kVersion);
  out.u8(static_cast<uint8_t>(blob.kind));
  out.u16(blob.port);
  out.incarnation(blob.incarnation);
  out.text(blob.address, kAddressMax);
  return out.take();
}

Result<PeerBlob> decode_blob(std::string_view bytes, BlobKind expected) {
  FieldReader in(as_span(bytes));
  const uint32_t magic = in.u32();
  const uint8_t version = in.u8();
  const uint8_t kind = in.u8();
  if (!in.ok() || magic != kMagic) {
    return error(ErrorCode::kInvalidArgument, "peer's transport address of {} bytes is not one of ours", bytes.size());
  }
  if (version != kVersion) {
    return error(ErrorCode::kIncompatible, "peer's transport address has version {}, this side reads {}", version,
                 kVersion);
  }
  if (kind != static_cast<uint8_t>(expected)) {
    return error(ErrorCode::kIncompatible, "peer offers transport {} ({}), this side runs {}: choose one on both sides",
                 kind_name(kind), kind, kind_name(static_cast<uint8_t>(expected)));
  }
  PeerBlob blob{.kind = expected, .incarnation = {}, .address = {}, .port = in.u16()};
  blob.incarnation = in.incarnation();
  blob.address = in.text(kAddressMax);
  if (!in.complete() || blob.address.empty()) {
    return error(ErrorCode::kInvalidArgument, "peer's transport address of {} bytes is cut off or too long",
                 bytes.size());
  }
  return blob;
}

}  // namespace baton
