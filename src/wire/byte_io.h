// Little-endian fields in a byte string. A Reader that ran out or met a bound stays failed and yields zeros, so that a
// decoder reads straight through and asks once at the end.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace baton {

static_assert(std::endian::native == std::endian::little, "the wire is little endian");

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
  // u32 length, bytes.
  void text(std::string_view text) {
    number(static_cast<uint32_t>(text.size()));
    out_->append(text);
  }

 private:
  std::string* out_;
};

class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

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

  std::string text(uint32_t max) {
    const auto size = bounded<uint32_t>(0, max);
    if (!take(size)) return {};
    return std::string(bytes_.substr(at_ - size, size));
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
