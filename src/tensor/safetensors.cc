#include "tensor/safetensors.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <string_view>

namespace baton::tensor {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors are read in place");

constexpr size_t kRankMax = 16;
constexpr size_t kLengthBytes = 8;

// Bytes per element of every type the format defines with whole bytes; 0 for others, whose size cannot be checked.
uint64_t element_bytes(std::string_view dtype) {
  struct Row {
    std::string_view name;
    uint64_t bytes;
  };
  static constexpr std::array<Row, 18> kRows = {{{"BOOL", 1},
                                                 {"U8", 1},
                                                 {"I8", 1},
                                                 {"F8_E4M3", 1},
                                                 {"F8_E5M2", 1},
                                                 {"F8_E8M0", 1},
                                                 {"U16", 2},
                                                 {"I16", 2},
                                                 {"F16", 2},
                                                 {"BF16", 2},
                                                 {"U32", 4},
                                                 {"I32", 4},
                                                 {"F32", 4},
                                                 {"U64", 8},
                                                 {"I64", 8},
                                                 {"F64", 8},
                                                 {"C64", 8},
                                                 {"C128", 16}}};
  for (const Row& row : kRows)
    if (row.name == dtype) return row.bytes;
  return 0;
}

template <typename... Args>
Error corrupt(const std::string& path, fmt::format_string<Args...> format, Args&&... args) {
  return error(ErrorCode::kCorrupt, "{}: {}; download the file again", path,
               fmt::format(format, std::forward<Args>(args)...));
}

// A name from the file, cut and made printable, so that one error stays one line.
std::string shown(std::string_view name) {
  std::string out(name.substr(0, 120));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return out;
}

Result<std::vector<int64_t>> parse_shape(simdjson::dom::element value, const std::string& path, std::string_view name) {
  simdjson::dom::array dims;
  if (value.get(dims) != simdjson::SUCCESS) return corrupt(path, "tensor '{}': shape is not an array", shown(name));
  if (dims.size() > kRankMax)
    return corrupt(path, "tensor '{}': {} dimensions, at most {} are read", shown(name), dims.size(), kRankMax);
  std::vector<int64_t> shape;
  shape.reserve(dims.size());
  for (const simdjson::dom::element dim : dims) {
    int64_t d = 0;
    if (!dim.is_int64() || dim.get(d) != simdjson::SUCCESS || d < 0)
      return corrupt(path, "tensor '{}': a dimension is not a whole number from 0 to 2^63-1", shown(name));
    shape.push_back(d);
  }
  return shape;
}

// Elements of `shape`, or nothing when the product or a partial product passes 2^63-1.
std::optional<int64_t> checked_product(const std::vector<int64_t>& shape) {
  int64_t product = 1;
  for (const int64_t d : shape)
    if (__builtin_mul_overflow(product, d, &product)) return std::nullopt;
  return product;
}

Status parse_offsets(simdjson::dom::element value, uint64_t data_begin, uint64_t file_bytes, const std::string& path,
                     std::string_view name, SafetensorsEntry& entry) {
  simdjson::dom::array pair;
  if (value.get(pair) != simdjson::SUCCESS || pair.size() != 2)
    return corrupt(path, "tensor '{}': data_offsets is not a pair", shown(name));
  std::array<uint64_t, 2> offsets{};
  for (size_t i = 0; i < 2; ++i)
    if (pair.at(i).get(offsets[i]) != simdjson::SUCCESS)
      return corrupt(path, "tensor '{}': data_offsets are not whole numbers", shown(name));
  const uint64_t room = file_bytes - data_begin;
  if (offsets[0] > offsets[1] || offsets[1] > room)
    return corrupt(path, "tensor '{}': data_offsets [{}, {}] are not inside the {} bytes of data", shown(name),
                   offsets[0], offsets[1], room);
  entry.begin = data_begin + offsets[0];
  entry.end = data_begin + offsets[1];
  return {};
}

Status check_size(const SafetensorsEntry& entry, const std::string& path, std::string_view name) {
  const std::optional<int64_t> count = checked_product(entry.shape);
  if (!count) return corrupt(path, "tensor '{}': the product of its shape is over 2^63-1", shown(name));
  const uint64_t size = element_bytes(entry.dtype);
  if (size == 0) return {};
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(*count), size, &bytes) || bytes != entry.end - entry.begin)
    return corrupt(path, "tensor '{}': {} elements of {} do not make the {} bytes its data_offsets span", shown(name),
                   *count, shown(entry.dtype), entry.end - entry.begin);
  return {};
}

Result<SafetensorsEntry> parse_entry(simdjson::dom::element value, uint64_t data_begin, uint64_t file_bytes,
                                     const std::string& path, std::string_view name) {
  simdjson::dom::object fields;
  if (value.get(fields) != simdjson::SUCCESS)
    return corrupt(path, "tensor '{}': its description is not an object", shown(name));
  SafetensorsEntry entry;
  unsigned seen = 0;
  for (const auto& [key, field] : fields) {
    const unsigned bit = key == "dtype" ? 1U : key == "shape" ? 2U : key == "data_offsets" ? 4U : 0U;
    if (bit == 0) return corrupt(path, "tensor '{}': unknown field '{}'", shown(name), shown(key));
    if ((seen & bit) != 0) return corrupt(path, "tensor '{}': field '{}' stands twice", shown(name), key);
    seen |= bit;
    if (bit == 1) {
      std::string_view dtype;
      if (field.get(dtype) != simdjson::SUCCESS)
        return corrupt(path, "tensor '{}': dtype is not a string", shown(name));
      entry.dtype = dtype;
    } else if (bit == 2) {
      BATON_ASSIGN(entry.shape, parse_shape(field, path, name));
    } else {
      BATON_TRY(parse_offsets(field, data_begin, file_bytes, path, name, entry));
    }
  }
  if (seen != 7) return corrupt(path, "tensor '{}': dtype, shape or data_offsets is missing", shown(name));
  BATON_TRY(check_size(entry, path, name));
  return entry;
}

// The data is covered exactly once: sorted by begin, each tensor starts where the one before ends.
Status check_coverage(const SafetensorsHeader& header, uint64_t data_begin, uint64_t file_bytes,
                      const std::string& path) {
  std::vector<const SafetensorsHeader::value_type*> order;
  order.reserve(header.size());
  for (const auto& item : header) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t at = data_begin;
  for (const auto* item : order) {
    if (item->second.begin != at)
      return corrupt(path, "tensor '{}' begins at byte {} where {} is due ({})", shown(item->first), item->second.begin,
                     at, item->second.begin < at ? "overlap" : "gap");
    at = item->second.end;
  }
  if (at != file_bytes) return corrupt(path, "its tensors end at byte {} and the file at {}", at, file_bytes);
  return {};
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, const std::string& path) {
  if (file.size() < kLengthBytes) return corrupt(path, "{} bytes are too few for a safetensors file", file.size());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kSafetensorsHeaderMaxBytes || length > file.size() - kLengthBytes)
    return corrupt(path, "header of {} bytes in a file of {} (at most {})", length, file.size(),
                   kSafetensorsHeaderMaxBytes);

  simdjson::dom::parser parser;
  simdjson::dom::object root;
  const auto* text = reinterpret_cast<const char*>(file.data() + kLengthBytes);
  const simdjson::error_code failure = parser.parse(text, length, true).get(root);
  if (failure != simdjson::SUCCESS)
    return corrupt(path, "its header is not a JSON object: {}", simdjson::error_message(failure));

  const uint64_t data_begin = kLengthBytes + length;
  SafetensorsHeader header;
  bool metadata_seen = false;
  for (const auto& [name, value] : root) {
    if (name == "__metadata__") {
      if (metadata_seen || !value.is_object()) return corrupt(path, "__metadata__ stands twice or is not an object");
      metadata_seen = true;
      continue;
    }
    BATON_ASSIGN(SafetensorsEntry entry, parse_entry(value, data_begin, file.size(), path, name));
    if (!header.emplace(std::string(name), std::move(entry)).second)
      return corrupt(path, "tensor '{}' stands twice", shown(name));
  }
  BATON_TRY(check_coverage(header, data_begin, file.size(), path));
  return header;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  BATON_ASSIGN(MappedFile file, MappedFile::open(path));
  BATON_ASSIGN(SafetensorsHeader header, parse_safetensors_header(file.bytes(), path));
  return SafetensorsFile(path, std::move(file), std::move(header));
}

Result<TensorView> SafetensorsFile::tensor(std::string_view name) const {
  const auto found = header_.find(name);
  if (found == header_.end()) return error(ErrorCode::kNotFound, "no tensor '{}' in {}", shown(name), path_);
  const SafetensorsEntry& entry = found->second;
  const Result<DType> dtype = parse_dtype(entry.dtype);
  if (!dtype)
    return error(ErrorCode::kInvalidArgument,
                 "{}: tensor '{}' is {}, which is not supported; use F32, BF16, F16 or F8_E4M3", path_, shown(name),
                 shown(entry.dtype));
  return TensorView{file_.bytes().data() + entry.begin, *dtype, entry.shape};
}

}  // namespace baton::tensor
