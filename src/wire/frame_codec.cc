#include "wire/frame_codec.h"

#include <xxhash.h>

#include <algorithm>

#include "base/byte_io.h"

namespace baton::wire {
namespace {

constexpr uint32_t kMagic = 0x484e5442;  // "BTNH" in the order of the bytes
constexpr int kDimMax = 1 << 20;

enum class FrameType : uint16_t {
  kManifest = 1,
  kAccept = 2,
  kRefuse = 3,
  kGrant = 4,
  kCommit = 5,
  kRelease = 6,
  kCancel = 7,
  kDrained = 8,
  kPing = 9,
  kPong = 10,
  kHello = 11,
  kProof = 12,
  kPromptLogprobs = 13,
};

std::string_view cut(std::string_view text, size_t max = kTextBytesMax) {
  return text.substr(0, std::min(text.size(), max));
}

void write(ByteWriter& out, AttemptId attempt) { out.number(attempt.value()); }
AttemptId read_attempt(ByteReader& in) { return AttemptId(in.bounded<uint64_t>(1, INT64_MAX)); }

void write(ByteWriter& out, const Bytes32& bytes) {
  for (const uint8_t byte : bytes) out.number(byte);
}
Bytes32 read_bytes32(ByteReader& in) {
  Bytes32 bytes{};
  for (uint8_t& byte : bytes) byte = in.number<uint8_t>();
  return bytes;
}

bool read_flag(ByteReader& in) { return in.bounded<uint8_t>(0, 1) == 1; }

FrameType write_body(ByteWriter& out, const Manifest& m) {
  BATON_CHECK(m.regions.size() <= static_cast<size_t>(layout::kWorldMax), "{} regions", m.regions.size());
  BATON_CHECK(m.transport_blob.size() <= kBlobBytesMax, "transport blob of {} bytes", m.transport_blob.size());
  out.incarnation(m.incarnation);
  out.number(static_cast<uint8_t>(m.role));
  out.number(m.model_digest.high);
  out.number(m.model_digest.low);
  for (const int value :
       {m.geometry.layers, m.geometry.kv_heads, m.geometry.k_dim, m.geometry.v_dim, m.geometry.element_size})
    out.number(static_cast<int32_t>(value));
  out.text(cut(m.kv_dtype));
  for (const int value : {m.layout.tp, m.layout.dp, m.layout.pp, m.layout.ep, m.page_tokens, m.pages_per_group})
    out.number(static_cast<int32_t>(value));
  out.number(static_cast<uint8_t>(m.writer_policy));
  out.number(static_cast<uint8_t>(m.fanout));
  out.text(cut(m.transport));
  out.text(m.transport_blob);
  out.number(static_cast<uint32_t>(m.regions.size()));
  for (const Manifest::Region& region : m.regions) {
    out.number(region.id);
    out.number(region.bytes);
  }
  return FrameType::kManifest;
}

Frame read_manifest(ByteReader& in) {
  Manifest m;
  m.incarnation = in.incarnation();
  m.role = static_cast<InstanceRole>(in.bounded<uint8_t>(1, 2));
  m.model_digest.high = in.number<uint64_t>();
  m.model_digest.low = in.number<uint64_t>();
  m.geometry.layers = in.bounded<int32_t>(1, kDimMax);
  m.geometry.kv_heads = in.bounded<int32_t>(1, kDimMax);
  m.geometry.k_dim = in.bounded<int32_t>(1, kDimMax);
  m.geometry.v_dim = in.bounded<int32_t>(0, kDimMax);
  m.geometry.element_size = in.bounded<int32_t>(1, 16);
  m.kv_dtype = in.text(kTextBytesMax);
  for (int* value : {&m.layout.tp, &m.layout.dp, &m.layout.pp, &m.layout.ep})
    *value = in.bounded<int32_t>(1, layout::kWorldMax);
  m.page_tokens = in.bounded<int32_t>(1, kDimMax);
  m.pages_per_group = in.bounded<int32_t>(1, INT32_MAX);
  m.writer_policy = static_cast<layout::WriterPolicy>(in.bounded<uint8_t>(0, 2));
  m.fanout = static_cast<layout::Fanout>(in.bounded<uint8_t>(0, 1));
  m.transport = in.text(kTextBytesMax);
  m.transport_blob = in.text(kBlobBytesMax);
  const size_t regions = in.count(layout::kWorldMax, 12);
  m.regions.resize(regions);
  for (Manifest::Region& region : m.regions) {
    region.id = in.number<uint32_t>();
    region.bytes = in.number<uint64_t>();
  }
  return m;
}

FrameType write_body(ByteWriter& out, const Accept& accept) {
  out.number(accept.plan_hash);
  write(out, accept.mac);
  return FrameType::kAccept;
}

Frame read_accept(ByteReader& in) {
  Accept accept;
  accept.plan_hash = in.number<uint64_t>();
  accept.mac = read_bytes32(in);
  return accept;
}

FrameType write_body(ByteWriter& out, const Hello& hello) {
  out.number(hello.versions.min);
  out.number(hello.versions.max);
  out.number(static_cast<uint8_t>(hello.role));
  out.number(static_cast<uint8_t>(hello.keyed));
  write(out, hello.nonce);
  return FrameType::kHello;
}

Frame read_hello(ByteReader& in) {
  Hello hello;
  hello.versions.min = in.number<uint16_t>();
  hello.versions.max = in.number<uint16_t>();
  hello.role = static_cast<InstanceRole>(in.bounded<uint8_t>(1, 2));
  hello.keyed = read_flag(in);
  hello.nonce = read_bytes32(in);
  return hello;
}

FrameType write_body(ByteWriter& out, const Proof& proof) {
  write(out, proof.mac);
  return FrameType::kProof;
}

FrameType write_body(ByteWriter& out, const Refuse& refuse) {
  out.text(cut(refuse.text));
  return FrameType::kRefuse;
}

FrameType write_body(ByteWriter& out, const Grant& grant) {
  BATON_CHECK(grant.pages.size() <= kGrantPagesMax, "grant of {} pages", grant.pages.size());
  write(out, grant.attempt);
  out.incarnation(grant.decode);
  out.incarnation(grant.prefill);
  out.number(static_cast<int32_t>(grant.dp_rank));
  out.number(grant.prompt_tokens);
  out.number(grant.cached_tokens);
  out.number(grant.window_secret);
  out.number(grant.budget_ms);
  out.number(static_cast<uint32_t>(grant.pages.size()));
  for (const GrantedPage& page : grant.pages) {
    out.number(page.page.value());
    out.number(page.generation);
  }
  return FrameType::kGrant;
}

Frame read_grant(ByteReader& in) {
  Grant grant;
  grant.attempt = read_attempt(in);
  grant.decode = in.incarnation();
  grant.prefill = in.incarnation();
  grant.dp_rank = in.bounded<int32_t>(0, layout::kWorldMax - 1);
  grant.prompt_tokens = in.bounded<int64_t>(1, kPromptTokensMax);
  grant.cached_tokens = in.bounded<int64_t>(0, grant.prompt_tokens - 1);
  grant.window_secret = in.number<uint64_t>();
  grant.budget_ms = in.number<uint32_t>();
  grant.pages.resize(in.count(kGrantPagesMax, 8));
  for (GrantedPage& page : grant.pages) {
    page.page = PageId(in.number<uint32_t>());
    page.generation = in.number<uint32_t>();
  }
  return grant;
}

constexpr size_t kTopLogprobBytes = 8;

void write(ByteWriter& out, const std::vector<TopLogprob>& tops, const std::vector<float>& listed) {
  BATON_CHECK(tops.size() <= kTopLogprobsMax && listed.size() <= kListedLogprobsMax, "{} and {} logprobs of a token",
              tops.size(), listed.size());
  out.number(static_cast<uint32_t>(tops.size()));
  for (const TopLogprob& top : tops) {
    out.number(top.token);
    out.number(top.logprob);
  }
  out.number(static_cast<uint32_t>(listed.size()));
  for (const float logprob : listed) out.number(logprob);
}

void read_logprobs(ByteReader& in, std::vector<TopLogprob>* tops, std::vector<float>* listed) {
  tops->resize(in.count(kTopLogprobsMax, kTopLogprobBytes));
  for (TopLogprob& top : *tops) {
    top.token = in.number<int32_t>();
    top.logprob = in.number<float>();
  }
  listed->resize(in.count(kListedLogprobsMax, sizeof(float)));
  for (float& logprob : *listed) logprob = in.number<float>();
}

constexpr size_t kRowBytesMin = 1 + sizeof(float) + 2 * sizeof(uint32_t);
constexpr uint32_t kRowsMax = kPromptRowsBytesMax / kRowBytesMin + 1;

FrameType write_body(ByteWriter& out, const PromptLogprobs& prompt) {
  BATON_CHECK(prompt.rows.size() <= kRowsMax, "{} rows in a frame", prompt.rows.size());
  write(out, prompt.attempt);
  out.number(prompt.grant_digest);
  out.number(prompt.begin);
  out.number(static_cast<uint32_t>(prompt.rows.size()));
  for (const PromptRow& row : prompt.rows) {
    out.number(static_cast<uint8_t>(row.scored));
    out.number(row.logprob);
    write(out, row.top_logprobs, row.listed);
  }
  return FrameType::kPromptLogprobs;
}

Frame read_prompt_logprobs(ByteReader& in) {
  PromptLogprobs prompt;
  prompt.attempt = read_attempt(in);
  prompt.grant_digest = in.number<uint64_t>();
  prompt.begin = in.number<uint32_t>();
  prompt.rows.resize(in.count(kRowsMax, kRowBytesMin));
  for (PromptRow& row : prompt.rows) {
    row.scored = read_flag(in);
    row.logprob = in.number<float>();
    read_logprobs(in, &row.top_logprobs, &row.listed);
  }
  return prompt;
}

FrameType write_body(ByteWriter& out, const Commit& commit) {
  BATON_CHECK(commit.checksums.size() <= kChecksumsMax, "commit of {} checksums", commit.checksums.size());
  write(out, commit.attempt);
  out.incarnation(commit.decode);
  out.incarnation(commit.prefill);
  out.number(commit.grant_digest);
  out.number(commit.first.token);
  out.number(commit.first.logprob);
  out.number(static_cast<uint8_t>(commit.first.finished));
  write(out, commit.first.top_logprobs, commit.first.listed);
  out.number(commit.cached_tokens);
  out.number(commit.bytes);
  out.number(commit.copies);
  for (const Duration d : {commit.durations.prefill_queue, commit.durations.prefill, commit.durations.transfer_tail})
    out.number(static_cast<int64_t>(d.count()));
  out.number(commit.checksum_pages);
  out.number(static_cast<uint32_t>(commit.checksums.size()));
  for (const uint64_t checksum : commit.checksums) out.number(checksum);
  return FrameType::kCommit;
}

Frame read_commit(ByteReader& in) {
  Commit commit;
  commit.attempt = read_attempt(in);
  commit.decode = in.incarnation();
  commit.prefill = in.incarnation();
  commit.grant_digest = in.number<uint64_t>();
  commit.first.token = in.number<int32_t>();
  commit.first.logprob = in.number<float>();
  commit.first.finished = read_flag(in);
  read_logprobs(in, &commit.first.top_logprobs, &commit.first.listed);
  commit.cached_tokens = in.bounded<int64_t>(0, kPromptTokensMax);
  commit.bytes = in.number<uint64_t>();
  commit.copies = in.number<uint64_t>();
  for (Duration* d : {&commit.durations.prefill_queue, &commit.durations.prefill, &commit.durations.transfer_tail})
    *d = Duration(in.bounded<int64_t>(0, INT64_MAX));
  commit.checksum_pages = in.bounded<uint32_t>(0, kGrantPagesMax);
  commit.checksums.resize(in.count(kChecksumsMax, 8));
  for (uint64_t& checksum : commit.checksums) checksum = in.number<uint64_t>();
  return commit;
}

FrameType write_body(ByteWriter& out, const Release& release) {
  write(out, release.attempt);
  out.number(release.grant_digest);
  return FrameType::kRelease;
}

FrameType write_body(ByteWriter& out, const Cancel& cancel) {
  write(out, cancel.attempt);
  out.number(cancel.grant_digest);
  out.number(static_cast<uint8_t>(cancel.fault));
  out.text(cut(cancel.reason));
  return FrameType::kCancel;
}

Frame read_release(ByteReader& in) {
  Release release;
  release.attempt = read_attempt(in);
  release.grant_digest = in.number<uint64_t>();
  return release;
}

Frame read_drained(ByteReader& in) {
  Drained drained;
  drained.attempt = read_attempt(in);
  drained.grant_digest = in.number<uint64_t>();
  return drained;
}

Frame read_cancel(ByteReader& in) {
  Cancel cancel;
  cancel.attempt = read_attempt(in);
  cancel.grant_digest = in.number<uint64_t>();
  cancel.fault = read_flag(in);
  cancel.reason = in.text(kTextBytesMax);
  return cancel;
}

FrameType write_body(ByteWriter& out, const Drained& drained) {
  write(out, drained.attempt);
  out.number(drained.grant_digest);
  return FrameType::kDrained;
}
FrameType write_body(ByteWriter& out, const Ping& ping) {
  out.number(ping.serial);
  return FrameType::kPing;
}
FrameType write_body(ByteWriter& out, const Pong& pong) {
  out.number(pong.serial);
  return FrameType::kPong;
}

Result<Frame> read_body(FrameType type, ByteReader& in) {
  switch (type) {
    case FrameType::kManifest:
      return read_manifest(in);
    case FrameType::kAccept:
      return read_accept(in);
    case FrameType::kRefuse:
      return Frame(Refuse{in.text(kTextBytesMax)});
    case FrameType::kGrant:
      return read_grant(in);
    case FrameType::kCommit:
      return read_commit(in);
    case FrameType::kRelease:
      return read_release(in);
    case FrameType::kCancel:
      return read_cancel(in);
    case FrameType::kDrained:
      return read_drained(in);
    case FrameType::kPing:
      return Frame(Ping{in.number<uint64_t>()});
    case FrameType::kPong:
      return Frame(Pong{in.number<uint64_t>()});
    case FrameType::kHello:
      return read_hello(in);
    case FrameType::kProof:
      return Frame(Proof{read_bytes32(in)});
    case FrameType::kPromptLogprobs:
      return read_prompt_logprobs(in);
  }
  return error(ErrorCode::kCorrupt, "control frame of unknown type {}", static_cast<int>(type));
}

}  // namespace

Result<uint16_t> common_version(VersionRange here, VersionRange there) {
  const uint16_t highest = std::min(here.max, there.max);
  if (highest >= here.min && highest >= there.min) return highest;
  return error(ErrorCode::kIncompatible,
               "this instance speaks handoff protocol {} to {}, the peer {} to {}: run the same version on both",
               here.min, here.max, there.min, there.max);
}

const char* frame_name(const Frame& frame) {
  static constexpr const char* kNames[] = {"Manifest", "Accept", "Refuse", "Grant", "Commit", "Release",       "Cancel",
                                           "Drained",  "Ping",   "Pong",   "Hello", "Proof",  "PromptLogprobs"};
  static_assert(std::size(kNames) == std::variant_size_v<Frame>);
  return kNames[frame.index()];
}

size_t row_bytes(const PromptRow& row) {
  return kRowBytesMin + row.top_logprobs.size() * kTopLogprobBytes + row.listed.size() * sizeof(float);
}

void encode_frame(const Frame& frame, std::string* out, uint16_t version) {
  const size_t start = out->size();
  ByteWriter writer(out);
  writer.number(uint32_t{0});
  writer.number(kMagic);
  writer.number(version);
  writer.number(uint16_t{0});
  const FrameType type = std::visit([&](const auto& body) { return write_body(writer, body); }, frame);
  const auto length = static_cast<uint32_t>(out->size() - start - sizeof(uint32_t));
  BATON_CHECK(out->size() - start <= kFrameBytesMax, "{} frame of {} bytes", frame_name(frame), out->size() - start);
  std::memcpy(out->data() + start, &length, sizeof(length));
  std::memcpy(out->data() + start + 10, &type, sizeof(type));
}

Result<size_t> frame_length(std::string_view buffer, size_t limit) {
  ByteReader in(buffer);
  const auto length = in.number<uint32_t>();
  if (in.failed()) return size_t{0};
  const size_t whole = size_t{length} + sizeof(uint32_t);
  if (whole < kFrameHeaderBytes || whole > limit)
    return error(ErrorCode::kCorrupt,
                 "control frame of {} bytes, between {} and {} expected: not a Baton control connection?", whole,
                 kFrameHeaderBytes, limit);
  const auto magic = in.number<uint32_t>();
  if (!in.failed() && magic != kMagic)
    return error(ErrorCode::kCorrupt, "control frame with magic {:#x}, {:#x} expected: not a Baton control connection?",
                 magic, kMagic);
  return whole;
}

Result<Frame> decode_frame(std::string_view bytes, uint16_t version) {
  BATON_ASSIGN(const size_t whole, frame_length(bytes, kFrameBytesMax));
  if (whole != bytes.size())
    return error(ErrorCode::kCorrupt, "control frame of {} bytes in a buffer of {}", whole, bytes.size());
  ByteReader in(bytes);
  in.number<uint64_t>();  // length and magic
  const auto theirs = in.number<uint16_t>();
  const auto type = static_cast<FrameType>(in.number<uint16_t>());
  if (theirs != version && type != FrameType::kHello && type != FrameType::kRefuse)
    return error(ErrorCode::kIncompatible,
                 "a frame of handoff protocol {} where {} is spoken: run the same version on both", theirs, version);
  BATON_ASSIGN(Frame frame, read_body(type, in));
  if (in.failed() || in.left() != 0)
    return error(ErrorCode::kCorrupt, "{} frame of {} bytes is malformed at byte {}", frame_name(frame), bytes.size(),
                 in.at());
  return frame;
}

uint64_t grant_digest(const Grant& grant) {
  std::string bytes;
  ByteWriter out(&bytes);
  out.number(grant.attempt.value());
  out.number(grant.window_secret);
  for (const GrantedPage& page : grant.pages) {
    out.number(page.page.value());
    out.number(page.generation);
  }
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace baton::wire
