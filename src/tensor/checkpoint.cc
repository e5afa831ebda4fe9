#include "tensor/checkpoint.h"

#include <simdjson.h>
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <memory>

namespace baton::tensor {
namespace {

namespace fs = std::filesystem;
using Where = std::map<std::string, size_t, std::less<>>;

constexpr size_t kIndexMaxBytes = 100'000'000;
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

struct Contents {
  std::vector<SafetensorsFile> files;
  Where where;
};

// Every tensor of every file belongs to the model.
Result<Contents> open_all(const std::vector<std::string>& paths) {
  Contents contents;
  for (const std::string& path : paths) {
    BATON_ASSIGN(SafetensorsFile file, SafetensorsFile::open(path));
    for (const auto& [name, entry] : file.header()) {
      const auto [at, fresh] = contents.where.emplace(name, contents.files.size());
      if (!fresh)
        return error(ErrorCode::kCorrupt, "tensor '{}' is in {} and in {}; remove one of the files", name,
                     contents.files[at->second].path(), path);
    }
    contents.files.push_back(std::move(file));
  }
  return contents;
}

// A shard is a plain file name: an index cannot make the server read outside its directory.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos && name.find('\0') == name.npos;
}

// weight_map of the index: tensor to shard file.
Result<std::map<std::string, std::string>> parse_index(const std::string& path) {
  BATON_ASSIGN(const MappedFile file, MappedFile::open(path));
  if (file.bytes().empty() || file.bytes().size() > kIndexMaxBytes)
    return error(ErrorCode::kCorrupt, "{}: {} bytes, from 1 to {} are due; download it again", path,
                 file.bytes().size(), kIndexMaxBytes);
  simdjson::dom::parser parser;
  simdjson::dom::object root, map;
  const auto* text = reinterpret_cast<const char*>(file.bytes().data());
  simdjson::error_code failure = parser.parse(text, file.bytes().size(), true).get(root);
  if (failure == simdjson::SUCCESS) failure = root["weight_map"].get(map);
  if (failure != simdjson::SUCCESS)
    return error(ErrorCode::kCorrupt, "{}: no JSON object with a weight_map: {}; download it again", path,
                 simdjson::error_message(failure));
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, value] : map) {
    std::string_view shard;
    if (value.get(shard) != simdjson::SUCCESS || !is_plain_file_name(shard))
      return error(ErrorCode::kCorrupt,
                   "{}: tensor '{}' is not mapped to a file of the same directory; download the index again", path,
                   name);
    if (!shard_of.emplace(name, shard).second)
      return error(ErrorCode::kCorrupt, "{}: tensor '{}' stands twice", path, name);
  }
  return shard_of;
}

// Only what the index names belongs to the model.
Result<Contents> open_indexed(const fs::path& directory) {
  const std::string index = (directory / kIndexFile).string();
  BATON_ASSIGN(const auto shard_of, parse_index(index));
  Contents contents;
  std::map<std::string, size_t> opened;
  for (const auto& [name, shard] : shard_of) {
    const auto [at, fresh] = opened.emplace(shard, contents.files.size());
    if (fresh) {
      Result<SafetensorsFile> file = SafetensorsFile::open((directory / shard).string());
      if (!file && file.error().code == ErrorCode::kNotFound)
        return error(ErrorCode::kNotFound, "{} names shard {}, which is not in {}; download it", index, shard,
                     directory.string());
      if (!file) return file.error();
      contents.files.push_back(std::move(*file));
    }
    const SafetensorsFile& file = contents.files[at->second];
    if (file.header().find(name) == file.header().end())
      return error(ErrorCode::kCorrupt, "{} maps tensor '{}' to {}, which lacks it; download both again", index, name,
                   file.path());
    contents.where.emplace(name, at->second);
  }
  return contents;
}

Result<std::vector<std::string>> list_safetensors(const fs::path& directory) {
  std::error_code failure;
  std::vector<std::string> paths;
  for (fs::directory_iterator it(directory, failure), end; !failure && it != end; it.increment(failure))
    if (it->path().extension() == ".safetensors") paths.push_back(it->path().string());
  if (failure)
    return error(ErrorCode::kNotFound, "cannot read model directory {}: {}", directory.string(), failure.message());
  if (paths.empty())
    return error(ErrorCode::kNotFound,
                 "no *.safetensors in {}; give a Hugging Face model directory (other formats are not read)",
                 directory.string());
  std::sort(paths.begin(), paths.end());
  return paths;
}

Result<Contents> open_contents(const fs::path& directory) {
  std::error_code ignored;
  if (fs::exists(directory / kSingleFile, ignored)) return open_all({(directory / kSingleFile).string()});
  if (fs::exists(directory / kIndexFile, ignored)) return open_indexed(directory);
  BATON_ASSIGN(const std::vector<std::string> paths, list_safetensors(directory));
  return open_all(paths);
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& directory) {
  BATON_ASSIGN(Contents contents, open_contents(directory));
  return Checkpoint(directory, std::move(contents.files), std::move(contents.where));
}

Result<TensorView> Checkpoint::tensor(std::string_view name) const {
  const auto found = where_.find(name);
  if (found == where_.end())
    return error(ErrorCode::kNotFound, "no tensor '{}' among the {} of {}; is config.json of another model?", name,
                 where_.size(), directory_);
  return files_[found->second].tensor(name);
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(where_.size());
  for (const auto& [name, file] : where_) names.push_back(name);
  return names;
}

uint64_t Checkpoint::total_bytes() const {
  uint64_t total = 0;
  for (const auto& [name, file] : where_) {
    const SafetensorsEntry& entry = files_[file].header().find(name)->second;
    total += entry.end - entry.begin;
  }
  return total;
}

ModelDigest Checkpoint::digest() const {
  constexpr size_t kSampledTensors = 1024, kSampleBytes = 4096;
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), &XXH3_freeState);
  BATON_CHECK(state != nullptr && XXH3_128bits_reset(state.get()) == XXH_OK);
  const auto add = [&](const void* data, size_t bytes) { XXH3_128bits_update(state.get(), data, bytes); };
  const auto add_number = [&](uint64_t v) { add(&v, sizeof v); };
  const auto add_text = [&](const std::string& text) {
    add_number(text.size());
    add(text.data(), text.size());
  };
  // Every tensor of a small model, every step-th of a large one.
  const size_t step = where_.size() / kSampledTensors + 1;
  size_t ordinal = 0;
  for (const auto& [name, file] : where_) {
    const SafetensorsEntry& entry = files_[file].header().find(name)->second;
    add_text(name);
    add_text(entry.dtype);
    add_number(entry.shape.size());
    for (const int64_t d : entry.shape) add_number(static_cast<uint64_t>(d));
    if (ordinal++ % step == 0) {
      // From the middle: ends of tensors are more often padding or zeros.
      const uint64_t bytes = entry.end - entry.begin, taken = std::min<uint64_t>(bytes, kSampleBytes);
      add(files_[file].bytes().data() + entry.begin + (bytes - taken) / 2, taken);
    }
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(state.get());
  return ModelDigest{hash.high64, hash.low64};
}

}  // namespace baton::tensor
