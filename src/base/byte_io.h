// Little-endian fields in a byte string. A reader that ran out or met a bound stays failed and yields zeros, so that a
// decoder reads straight through and asks once at the end.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/ids.h"

namespace baton {

static_assert(std::endian::native == std::endian::little, "fields are copied as they stand in memory");

inline std::span<const std::byte> as_span(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class ByteWriter {
 public:
  explicit ByteWriter(std::string* out) : out_(out) {}

  template <typename T>
  requires std::is_arithmetic_v<T>
  void number(T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out_->append(bytes, sizeof(T));
  }
  // The length as a number of type Length, which has to hold it; then the bytes.
  template <typename Length = uint32_t>
  void text(std::string_view text) {
    number(static_cast<Length>(text.size()));
    out_->append(text);
  }
  void incarnation(const Incarnation& incarnation) {
    number(incarnation.high);
    number(incarnation.low);
  }

 private:
  std::string* out_;
};

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(as_text(bytes)) {}

  template <typename T>
  requires std::is_arithmetic_v<T> T number() {
    T value{};
    if (!take(sizeof(T))) return value;
    std::memcpy(&value, bytes_.data() + at_ - sizeof(T), sizeof(T));
    return value;
  }

  // A number that must lie in [low, high].
  template <typename T>
  T bounded(T low, T high) {
    const T value = number<T>();
    if (failed_) return low;
    if (value < low || value > high) {
      fail();
      return low;
    }
    return value;
  }

  // As ByteWriter::text() writes it, at most `max` bytes.
  template <typename Length = uint32_t>
  std::string text(Length max) {
    const auto size = bounded<Length>(0, max);
    if (!take(size)) return {};
    return std::string(bytes_.substr(at_ - size, size));
  }

  Incarnation incarnation() {
    const auto high = number<uint64_t>();
    return {high, number<uint64_t>()};
  }

  // How many entries of `entry_bytes` follow: at most `max`, and never more than the bytes that are there, so that the
  // caller may allocate for it.
  size_t count(uint32_t max, size_t entry_bytes) {
    const auto n = bounded<uint32_t>(0, max);
    if (failed_ || n > (bytes_.size() - at_) / entry_bytes) {
      fail();
      return 0;
    }
    return n;
  }

  void fail() { failed_ = true; }
  [[nodiscard]] bool failed() const { return failed_; }
  [[nodiscard]] size_t left() const { return bytes_.size() - at_; }
  [[nodiscard]] size_t at() const { return at_; }
  // Every byte that was asked for was there, and none is left.
  [[nodiscard]] bool complete() const { return !failed_ && left() == 0; }

 private:
  bool take(size_t n) {
    if (failed_ || n > bytes_.size() - at_) {
      failed_ = true;
      return false;
    }
    at_ += n;
    return true;
  }

  std::string_view bytes_;
  size_t at_ = 0;
  bool failed_ = false;
};

}  // namespace baton
