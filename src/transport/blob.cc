#include "transport/blob.h"

#include "base/byte_io.h"

namespace baton::transport {
namespace {

constexpr uint32_t kMagic = 0x424e5442;  // "BTNB"
constexpr uint8_t kVersion = 1;
constexpr uint16_t kAddressMax = 255;

const char* kind_name(uint8_t kind) {
  switch (static_cast<BlobKind>(kind)) {
    case BlobKind::kLoopback:
      return "loopback";
    case BlobKind::kShm:
      return "shm";
    case BlobKind::kTcp:
      return "tcp";
    case BlobKind::kCudaIpc:
      return "cuda_ipc";
  }
  return "unknown";
}

// Of whatever kind, also one that this build does not know.
Result<PeerBlob> decode_any(std::string_view bytes) {
  ByteReader in(bytes);
  const uint32_t magic = in.number<uint32_t>();
  const uint8_t version = in.number<uint8_t>();
  const uint8_t kind = in.number<uint8_t>();
  if (in.failed() || magic != kMagic) {
    return error(ErrorCode::kInvalidArgument, "peer's transport address of {} bytes is not one of ours", bytes.size());
  }
  if (version != kVersion) {
    return error(ErrorCode::kIncompatible, "peer's transport address has version {}, this side reads {}", version,
                 kVersion);
  }
  PeerBlob blob{.kind = static_cast<BlobKind>(kind), .incarnation = {}, .address = {}, .port = in.number<uint16_t>()};
  blob.incarnation = in.incarnation();
  blob.address = in.text<uint16_t>(kAddressMax);
  if (!in.complete() || blob.address.empty()) {
    return error(ErrorCode::kInvalidArgument, "peer's transport address of {} bytes is cut off or too long",
                 bytes.size());
  }
  return blob;
}

}  // namespace

std::string encode_blob(const PeerBlob& blob) {
  std::string bytes;
  ByteWriter out(&bytes);
  out.number(kMagic);
  out.number(kVersion);
  out.number(static_cast<uint8_t>(blob.kind));
  out.number(blob.port);
  out.incarnation(blob.incarnation);
  out.text<uint16_t>(std::string_view(blob.address).substr(0, kAddressMax));
  return bytes;
}

Result<PeerBlob> decode_blob(std::string_view bytes, BlobKind expected) {
  BATON_ASSIGN(PeerBlob blob, decode_any(bytes));
  if (blob.kind != expected) {
    const auto kind = static_cast<uint8_t>(blob.kind);
    return error(ErrorCode::kIncompatible, "peer offers transport {} ({}), this side runs {}: choose one on both sides",
                 kind_name(kind), kind, kind_name(static_cast<uint8_t>(expected)));
  }
  return blob;
}

Result<Incarnation> blob_incarnation(std::string_view bytes) {
  BATON_ASSIGN(const PeerBlob blob, decode_any(bytes));
  return blob.incarnation;
}

}  // namespace baton::transport
