// Little-endian fields of blobs, frames and attach messages. Readers never run past the end: they turn bad and stay
// bad.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/ids.h"

namespace baton {

static_assert(std::endian::native == std::endian::little, "fields are copied as they stand in memory");

inline std::span<const std::byte> as_span(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

class FieldWriter {
 public:
  void u8(uint8_t v) { raw(&v, sizeof(v)); }
  void u16(uint16_t v) { raw(&v, sizeof(v)); }
  void u32(uint32_t v) { raw(&v, sizeof(v)); }
  void u64(uint64_t v) { raw(&v, sizeof(v)); }
  void incarnation(const Incarnation& v) {
    u64(v.high);
    u64(v.low);
  }
  // u16 length and the bytes, cut at `bytes_max`.
  void text(std::string_view v, size_t bytes_max) {
    v = v.substr(0, bytes_max);
    u16(static_cast<uint16_t>(v.size()));
    raw(v.data(), v.size());
  }
  [[nodiscard]] const std::string& str() const { return out_; }
  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  void raw(const void* data, size_t n) { out_.append(static_cast<const char*>(data), n); }
  std::string out_;
};

class FieldReader {
 public:
  explicit FieldReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  uint8_t u8() { return fixed<uint8_t>(); }
  uint16_t u16() { return fixed<uint16_t>(); }
  uint32_t u32() { return fixed<uint32_t>(); }
  uint64_t u64() { return fixed<uint64_t>(); }
  Incarnation incarnation() {
    const uint64_t high = u64();
    return {high, u64()};
  }
  std::string text(size_t bytes_max) {
    const size_t n = u16();
    if (n > bytes_max || n > bytes_.size()) ok_ = false;
    if (!ok_) return {};
    std::string out(reinterpret_cast<const char*>(bytes_.data()), n);
    bytes_ = bytes_.subspan(n);
    return out;
  }
  // Every byte was there, and none is left.
  [[nodiscard]] bool complete() const { return ok_ && bytes_.empty(); }
  [[nodiscard]] bool ok() const { return ok_; }

 private:
  template <typename T>
  T fixed() {
    T value{};
    if (bytes_.size() < sizeof(T)) ok_ = false;
    if (!ok_) return value;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return value;
  }
  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

}  // namespace baton
