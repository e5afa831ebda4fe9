// The first words on a control connection: which version both sides speak, and the proof that both have the same key.
//
//   decode                                  prefill
//   Hello ------------------------------->
//         <------------------------ Hello, with a key Proof
//   with a key Proof, Manifest ---------->
//         <------------------------------ Manifest, Accept
//   Accept ------------------------------>
//
// Prefill proves first: decode tells nobody its incarnation, its data address or its model's digest who has not. Every
// MAC covers a word for its sender and purpose and both Hellos with their fresh nonces, so that none can be played
// back, on this connection to its sender or on another to anybody; those of Accept cover the manifests and the plan
// too. What is said afterwards is not protected: who can change bytes on the way between two instances is not kept out.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "wire/frames.h"

namespace baton::handoff {

// Shorter keys could be guessed from one Proof.
inline constexpr size_t kHandoffKeyBytesMin = 32;

class Handshake {
 public:
  // `key`: empty for none; outlives the object. Draws a nonce.
  Handshake(wire::InstanceRole self, const std::string& key);

  [[nodiscard]] const wire::Hello& hello() const { return own_; }
  [[nodiscard]] bool keyed() const { return !key_.empty(); }

  // The other's Hello; what stands below needs it. The version that both speak, or kIncompatible: no common one, twice
  // the same role, or a key on one side alone.
  Result<uint16_t> greet(const wire::Hello& theirs);

  [[nodiscard]] wire::Proof prove() const;
  [[nodiscard]] bool proved_by(const wire::Proof& proof) const;

  // The last word of either side about a pair. Without a key its MAC is zero and not looked at.
  [[nodiscard]] wire::Accept accept(const wire::Manifest& decode, const wire::Manifest& prefill,
                                    uint64_t plan_hash) const;
  [[nodiscard]] bool accepted_by(const wire::Accept& theirs, const wire::Manifest& decode,
                                 const wire::Manifest& prefill) const;

 private:
  [[nodiscard]] wire::Bytes32 mac(std::string_view purpose, wire::InstanceRole sender, std::string_view more) const;
  [[nodiscard]] wire::InstanceRole other() const;

  const std::string& key_;
  wire::Hello own_;
  wire::Hello theirs_;
};

}  // namespace baton::handoff
