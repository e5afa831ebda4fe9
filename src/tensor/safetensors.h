// Reader of the safetensors format: u64 little-endian header length N, N bytes of JSON, then the tensors' bytes
// (https://huggingface.co/docs/safetensors, "Format").
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "tensor/mapped_file.h"
#include "tensor/tensor_view.h"

namespace baton::tensor {

// What the header says of one tensor, checked: the shape's product does not overflow, [begin, end) lies in the file and
// has the size that dtype and shape ask for (where the format defines that dtype).
struct SafetensorsEntry {
  std::string dtype;  // as written: "BF16", "I64", ...
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
};

using SafetensorsHeader = std::map<std::string, SafetensorsEntry, std::less<>>;

inline constexpr uint64_t kSafetensorsHeaderMaxBytes = 100'000'000;

// Parses the header of a file whose whole content is `file`. Refuses (kCorrupt, naming `path` and the tensor): a header
// longer than the file or than 100 MB, JSON that is not strict, a name twice, shapes that overflow, offsets outside the
// file, sizes that do not fit, and tensors that overlap or leave gaps. Pure; any input is safe.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, const std::string& path);

// One mapped file. Immutable; any thread may read.
class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const SafetensorsHeader& header() const { return header_; }
  [[nodiscard]] std::span<const std::byte> bytes() const { return file_.bytes(); }
  // kNotFound for a name that is not there, kInvalidArgument for an element type that has no DType. The view borrows
  // the mapping.
  Result<TensorView> tensor(std::string_view name) const;

 private:
  SafetensorsFile(std::string path, MappedFile file, SafetensorsHeader header)
      : path_(std::move(path)), file_(std::move(file)), header_(std::move(header)) {}
  std::string path_;
  MappedFile file_;
  SafetensorsHeader header_;
};

}  // namespace baton::tensor
