// The weights of a Hugging Face model directory: one safetensors file, or shards with an index.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "tensor/safetensors.h"

namespace baton::tensor {

// Immutable once open; any thread may read. Views borrow the mapped files and live as long as the Checkpoint.
class Checkpoint {
 public:
  // Takes, in this order: model.safetensors; model.safetensors.index.json with its shards; every *.safetensors of the
  // directory. kNotFound when there is none or a shard is missing, kCorrupt when an index or file is not sound (a name
  // in two files, an index that points outside the directory or at a tensor that its shard lacks).
  static Result<Checkpoint> open(const std::string& directory);

  [[nodiscard]] bool has(std::string_view name) const { return where_.find(name) != where_.end(); }
  // kNotFound with the nearest thing to a remedy: the directory and how many tensors it has.
  Result<TensorView> tensor(std::string_view name) const;
  // Sorted.
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] uint64_t total_bytes() const;

  // XXH3-128 over the sorted names, element types and shapes, and a sample of the data that is bounded (4 MiB), so that
  // a model of 600 GB takes as long as a small one. How the tensors are cut into files does not matter. Reads the files
  // on every call.
  [[nodiscard]] ModelDigest digest() const;

 private:
  Checkpoint(std::string directory, std::vector<SafetensorsFile> files,
             std::map<std::string, size_t, std::less<>> where)
      : directory_(std::move(directory)), files_(std::move(files)), where_(std::move(where)) {}
  std::string directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t, std::less<>> where_;  // tensor to index in files_
};

}  // namespace baton::tensor
