// A whole file mapped for reading.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace baton::tensor {

// The mapping lives as long as the object; spans of it must not outlive it. Any thread may read. A file that somebody
// truncates while it is mapped ends the process with SIGBUS, as with every mapping: model directories are not edited
// under a running server.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace baton::tensor
