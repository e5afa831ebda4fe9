// Frames to bytes and back. Little endian:
//   u32 length of what follows | u32 magic "BTNH" | u16 protocol version | u16 type | body
// Every count is bounded before anything is allocated, a frame must be used up to its last byte, and what cannot be is
// an error.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"
#include "wire/frames.h"

namespace baton::wire {

inline constexpr size_t kFrameHeaderBytes = 12;
// Of a whole frame; the longest are grants (8 bytes a page) and commits (8 bytes a page and destination rank).
inline constexpr size_t kFrameBytesMax = 36u << 20;
// Until the other side has shown a manifest that fits.
inline constexpr size_t kFrameBytesMaxUnpaired = 256u << 10;

inline constexpr uint32_t kBlobBytesMax = 64u << 10;
inline constexpr uint32_t kTextBytesMax = 4096;
inline constexpr uint32_t kGrantPagesMax = 1u << 20;
inline constexpr uint32_t kChecksumsMax = 1u << 22;
inline constexpr uint32_t kTopLogprobsMax = 1024;
inline constexpr uint32_t kListedLogprobsMax = 4096;
// Of a frame of PromptLogprobs: its sender begins another one beyond so many bytes, and a row more may be in it.
inline constexpr size_t kPromptRowsBytesMax = 1u << 20;
inline constexpr int64_t kPromptTokensMax = int64_t{1} << 40;

[[nodiscard]] const char* frame_name(const Frame& frame);

// The highest version in both ranges; kIncompatible names both.
Result<uint16_t> common_version(VersionRange here, VersionRange there);

// Appends the frame. Texts that are too long are cut; more pages, checksums, regions or logprobs than the bounds are a
// bug of the caller. `version` is the one that both sides have agreed on; Hello and Refuse have the same bytes in all.
void encode_frame(const Frame& frame, std::string* out, uint16_t version = kProtocolVersions.max);

// The length of the frame that begins `buffer`, 0 while its length field is not complete. kCorrupt when it is below a
// header or above `limit`, or the magic is already seen to be wrong.
Result<size_t> frame_length(std::string_view buffer, size_t limit);

// The row's bytes in a frame.
[[nodiscard]] size_t row_bytes(const PromptRow& row);

// Exactly one frame. kIncompatible: not of `version`, and neither Hello nor Refuse; kCorrupt: anything else that is
// wrong.
Result<Frame> decode_frame(std::string_view bytes, uint16_t version = kProtocolVersions.max);

// What a Commit must quote of the Grant it answers: XXH3-64 over attempt, secret, pages and generations.
[[nodiscard]] uint64_t grant_digest(const Grant& grant);

}  // namespace baton::wire
