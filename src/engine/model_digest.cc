#include "engine/model_digest.h"

#include <xxhash.h>

#include <fstream>
#include <iterator>
#include <string>

#include "tensor/checkpoint.h"

namespace baton::engine {

Result<ModelDigest> digest_of_model(const model::ExecutorOptions& options) {
  const std::string path = options.model_path + "/config.json";
  std::ifstream file(path, std::ios::binary);
  if (!file) return error(ErrorCode::kNotFound, "no config.json in {}", options.model_path);
  std::string words((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (options.load_format == model::LoadFormat::kDummy) {
    words += fmt::format("\ndummy weights of seed {}", options.seed);
  } else {
    BATON_ASSIGN(const tensor::Checkpoint checkpoint, tensor::Checkpoint::open(options.model_path));
    words += "\nweights " + checkpoint.digest().to_string();
  }
  const XXH128_hash_t hash = XXH3_128bits(words.data(), words.size());
  return ModelDigest{hash.high64, hash.low64};
}

}  // namespace baton::engine
