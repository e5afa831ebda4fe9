#include "handoff/handshake.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <cstring>

#include "base/check.h"
#include "base/random.h"
#include "wire/frame_codec.h"

namespace baton::handoff {

using wire::InstanceRole;

namespace {

const char* role_text(InstanceRole role) { return role == InstanceRole::kPrefill ? "prefill" : "decode"; }

std::string body_of(const wire::Manifest& decode, const wire::Manifest& prefill, uint64_t plan_hash) {
  std::string bytes;
  wire::encode_frame(decode, &bytes);
  wire::encode_frame(prefill, &bytes);
  wire::encode_frame(wire::Accept{plan_hash, {}}, &bytes);
  return bytes;
}

}  // namespace

Handshake::Handshake(InstanceRole self, const std::string& key) : key_(key) {
  own_.role = self;
  own_.keyed = !key.empty();
  for (size_t i = 0; i < own_.nonce.size(); i += sizeof(uint64_t)) {
    const uint64_t drawn = entropy();
    std::memcpy(own_.nonce.data() + i, &drawn, sizeof(drawn));
  }
}

InstanceRole Handshake::other() const {
  return own_.role == InstanceRole::kPrefill ? InstanceRole::kDecode : InstanceRole::kPrefill;
}

Result<uint16_t> Handshake::greet(const wire::Hello& theirs) {
  theirs_ = theirs;
  BATON_ASSIGN(const uint16_t version, wire::common_version(own_.versions, theirs.versions));
  if (theirs.role == own_.role)
    return error(ErrorCode::kIncompatible,
                 "both are {} instances; start one with --disaggregation-mode prefill and one with decode",
                 role_text(own_.role));
  if (theirs.keyed != own_.keyed)
    return error(ErrorCode::kIncompatible,
                 "the {} instance has a shared key and the {} instance has none: give both the same --handoff-key-file",
                 role_text(own_.keyed ? own_.role : other()), role_text(own_.keyed ? other() : own_.role));
  return version;
}

wire::Proof Handshake::prove() const { return {mac("has the key", own_.role, {})}; }

bool Handshake::proved_by(const wire::Proof& proof) const {
  const wire::Bytes32 expected = mac("has the key", other(), {});
  return keyed() && CRYPTO_memcmp(expected.data(), proof.mac.data(), expected.size()) == 0;
}

wire::Accept Handshake::accept(const wire::Manifest& decode, const wire::Manifest& prefill, uint64_t plan_hash) const {
  wire::Accept accept{plan_hash, {}};
  if (keyed()) accept.mac = mac("accepts", own_.role, body_of(decode, prefill, plan_hash));
  return accept;
}

bool Handshake::accepted_by(const wire::Accept& theirs, const wire::Manifest& decode,
                            const wire::Manifest& prefill) const {
  if (!keyed()) return true;
  const wire::Bytes32 expected = mac("accepts", other(), body_of(decode, prefill, theirs.plan_hash));
  return CRYPTO_memcmp(expected.data(), theirs.mac.data(), expected.size()) == 0;
}

wire::Bytes32 Handshake::mac(std::string_view purpose, InstanceRole sender, std::string_view more) const {
  const bool decode = own_.role == InstanceRole::kDecode;
  std::string covered = fmt::format("Baton handoff: {} {}\n", role_text(sender), purpose);
  wire::encode_frame(decode ? own_ : theirs_, &covered);
  wire::encode_frame(decode ? theirs_ : own_, &covered);
  covered += more;
  wire::Bytes32 mac{};
  unsigned int size = 0;
  const unsigned char* made =
      ::HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()),
             reinterpret_cast<const unsigned char*>(covered.data()), covered.size(), mac.data(), &size);
  BATON_CHECK(made != nullptr && size == mac.size(), "HMAC-SHA256 failed");
  return mac;
}

}  // namespace baton::handoff
