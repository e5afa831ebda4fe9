// The control frames of the handoff protocol as plain structs. docs/PROTOCOL.md gives the bytes; frame_codec.h reads
// and writes them.
//
// One control connection a pair of instances: decode connects to prefill. Hello both ways, Proof both ways where the
// two have a key, Manifest both ways, Accept both ways (or Refuse), then Grant, Cancel, Release and Ping from decode,
// PromptLogprobs, Commit, Cancel, Drained and Pong from prefill (Ping, Pong and Drained go either way).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "layout/layout.h"
#include "layout/plan.h"

namespace baton::wire {

// A version is another one when a frame changes its bytes or its meaning. Both sides of a connection offer those they
// speak, and the highest that both do is spoken.
struct VersionRange {
  uint16_t min = 0;
  uint16_t max = 0;
  bool operator==(const VersionRange&) const = default;
};
inline constexpr VersionRange kProtocolVersions{4, 4};

enum class InstanceRole : uint8_t { kPrefill = 1, kDecode = 2 };

// 32 bytes: a nonce, or an HMAC-SHA256.
using Bytes32 = std::array<uint8_t, 32>;

// The first frame of either side. Its bytes are the same in every version, and it tells a stranger nothing.
struct Hello {
  VersionRange versions = kProtocolVersions;
  InstanceRole role = InstanceRole::kPrefill;
  bool keyed = false;  // has a shared key, and wants the other to prove it
  Bytes32 nonce{};     // drawn for this connection
  bool operator==(const Hello&) const = default;
};

// That the sender has the shared key: a MAC over its role and both Hellos.
struct Proof {
  Bytes32 mac{};
  bool operator==(const Proof&) const = default;
};

// What an instance says of itself when two meet. The order of `regions` is the world rank.
struct Manifest {
  struct Region {
    uint32_t id = 0;     // RegionId of the transport
    uint64_t bytes = 0;  // of the rank's pool, which begins at offset 0
    bool operator==(const Region&) const = default;
  };
  Incarnation incarnation;
  InstanceRole role = InstanceRole::kPrefill;
  ModelDigest model_digest;
  layout::KvGeometry geometry;
  std::string kv_dtype;  // "bfloat16", "float32"
  layout::Layout layout;
  int page_tokens = 0;
  int pages_per_group = 0;                                               // pages of each DP group's pool
  layout::WriterPolicy writer_policy = layout::WriterPolicy::kBalanced;  // the prefill side's counts for the pair
  layout::Fanout fanout = layout::Fanout::kDirect;                       // the decode side's counts for the pair
  std::string transport;                                                 // "shm"; must be equal
  std::string transport_blob;                                            // Transport::local_blob()
  std::vector<Region> regions;
  bool operator==(const Manifest&) const = default;
};

// "I computed this plan from the two manifests": both sides send it, both compare.
struct Accept {
  uint64_t plan_hash = 0;
  Bytes32 mac{};  // with a shared key: over role, Hellos, manifests and plan; else zero
  bool operator==(const Accept&) const = default;
};

// The pair cannot work; one line for people, who may be strangers: digests, numbers of layouts and remedies, no path.
// Its bytes are the same in every version. The sender closes the connection.
struct Refuse {
  std::string text;
  bool operator==(const Refuse&) const = default;
};

struct GrantedPage {
  PageId page;
  uint32_t generation = 0;
  bool operator==(const GrantedPage&) const = default;
};

// Decode's permission to write stated pages of one of its DP groups, in token order: pages[i] holds tokens
// [i*page_tokens, ...) of the prompt. The first cached_tokens / page_tokens of them are already filled and must not be
// written.
struct Grant {
  AttemptId attempt;
  Incarnation decode;
  Incarnation prefill;
  int dp_rank = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // a multiple of decode's page_tokens, below prompt_tokens
  uint64_t window_secret = 0;
  uint32_t budget_ms = 0;  // from receipt on the receiver's own clock
  std::vector<GrantedPage> pages;
  bool operator==(const Grant&) const = default;
};

struct TopLogprob {
  int32_t token = 0;
  float logprob = 0;
  bool operator==(const TopLogprob&) const = default;
};

// What prefill sampled after the last chunk.
struct FirstToken {
  int32_t token = 0;
  float logprob = 0;                     // natural log; meaningful only when the request asked for it
  std::vector<TopLogprob> top_logprobs;  // best first
  std::vector<float> listed;             // logprobs of the tokens that the request lists, in its order
  bool finished = false;                 // the token ends the sequence (end of text, or one token asked for)
  bool operator==(const FirstToken&) const = default;
};

// What the prompt's tokens before it say of one of them: a row of those that the request asks for.
struct PromptRow {
  bool scored = false;  // the first token of a prompt has nothing before it
  float logprob = 0;
  std::vector<TopLogprob> top_logprobs;  // best first
  std::vector<float> listed;             // as FirstToken::listed
  bool operator==(const PromptRow&) const = default;
};

// Rows [begin, begin + rows.size()) of the prompt; all of them come, in order, before the Commit.
struct PromptLogprobs {
  AttemptId attempt;
  uint64_t grant_digest = 0;
  uint32_t begin = 0;
  std::vector<PromptRow> rows;
  bool operator==(const PromptLogprobs&) const = default;
};

// Where the time of a request went on the prefill side; durations, because clocks of two processes are never
// subtracted.
struct HandoffDurations {
  Duration prefill_queue{};  // from the grant to the first chunk
  Duration prefill{};        // from the first chunk to the first token
  Duration transfer_tail{};  // from the first token to the last write done
  bool operator==(const HandoffDurations&) const = default;
};

// Every byte of the attempt is applied at decode, and this is what they sum to.
struct Commit {
  AttemptId attempt;
  Incarnation decode;
  Incarnation prefill;
  uint64_t grant_digest = 0;  // grant_digest(the Grant this answers)
  FirstToken first;
  int64_t cached_tokens = 0;  // of the prompt, that prefill had and did not compute again
  uint64_t bytes = 0;         // over the fabric
  uint64_t copies = 0;        // contiguous blocks over the fabric
  HandoffDurations durations;
  // Of page p (of those after the cached ones) of destination rank r of the group: checksums[r * checksum_pages + p],
  // with keys of the grant's digest (docs/PROTOCOL.md).
  uint32_t checksum_pages = 0;
  std::vector<uint64_t> checksums;
  bool operator==(const Commit&) const = default;
};

// The frames below name the grant they are about by its digest: an attempt id may be used again, a digest is not.

// Decode has committed: the attempt is over on both sides.
struct Release {
  AttemptId attempt;
  uint64_t grant_digest = 0;
  bool operator==(const Release&) const = default;
};

// The attempt is over for the sender, which asks for Drained. May be repeated; an unknown attempt is answered with
// Drained too.
struct Cancel {
  AttemptId attempt;
  uint64_t grant_digest = 0;
  bool fault = false;  // false: someone no longer wants it; true: something went wrong
  std::string reason;
  bool operator==(const Cancel&) const = default;
};

// The sender's incarnation is done with the attempt. From prefill: no byte of it can land any more, evidence E1.
struct Drained {
  AttemptId attempt;
  uint64_t grant_digest = 0;
  bool operator==(const Drained&) const = default;
};

struct Ping {
  uint64_t serial = 0;
  bool operator==(const Ping&) const = default;
};
struct Pong {
  uint64_t serial = 0;
  bool operator==(const Pong&) const = default;
};

using Frame = std::variant<Manifest, Accept, Refuse, Grant, Commit, Release, Cancel, Drained, Ping, Pong, Hello, Proof,
                           PromptLogprobs>;

}  // namespace baton::wire
