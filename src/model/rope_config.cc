#include "model/rope_config.h"

#include <algorithm>

namespace baton::model {

namespace json = boost::json;

namespace {

constexpr size_t kRopeFactorsMax = 1 << 14;
constexpr double kYarnThetaMin = 1.001;  // its formula divides by the logarithm

// Null if there is none, or an empty one.
const json::value* find_rope(const JsonFields& fields) {
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const json::value* value = fields.find(name);
    if (value != nullptr && !(value->is_object() && value->get_object().empty())) return value;
  }
  return nullptr;
}

void read_kind(JsonFields& rope, RopeScaling& r) {
  // Old files have `type`.
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (type == "default") {
    r.kind = RopeScaling::Kind::kNone;
  } else if (type == "linear") {
    r.kind = RopeScaling::Kind::kLinear;
  } else if (type == "dynamic") {
    r.kind = RopeScaling::Kind::kDynamic;
  } else if (type == "llama3") {
    r.kind = RopeScaling::Kind::kLlama3;
  } else if (type == "yarn") {
    r.kind = RopeScaling::Kind::kYarn;
  } else if (type == "longrope" || type == "su") {  // Phi-3's first files have "su"
    r.kind = RopeScaling::Kind::kLongrope;
  } else {
    rope.fail(error(ErrorCode::kIncompatible,
                    "{}: type {} is not supported; supported are default, linear, dynamic, llama3, yarn, longrope",
                    rope.where(), type));
  }
}

// Contexts that may pass the original length have the long factors from their first position on, as in SGLang and vLLM:
// a sequence's KV is not turned anew when it grows past that length, and both instances of a pair turn it alike.
void read_longrope(JsonFields& rope, const ModelConfig& config, int64_t original_max_position, RopeScaling& r) {
  // From 2: the attention factor divides by the logarithm.
  r.original_max_position = original_max_position > 1
                                ? original_max_position
                                : rope.integer("original_max_position_embeddings", 2, kPositionMax);
  r.factor = static_cast<double>(config.max_position) / static_cast<double>(r.original_max_position);
  const std::string length = config.max_position > r.original_max_position ? "long" : "short";
  r.dimension_factors = rope.numbers_between(length + "_factor", 1e-6, 1e6, kRopeFactorsMax);
  for (const std::string& name : {std::string("attention_factor"), length + "_mscale"}) {
    if (rope.find(name) == nullptr) continue;
    r.attention_factor = rope.number(name, 0, 1e3);
    break;
  }
}

void read_scaling(JsonFields& rope, const ModelConfig& config, int64_t original_max_position, RopeScaling& r) {
  if (r.kind == RopeScaling::Kind::kLongrope) return read_longrope(rope, config, original_max_position, r);
  r.original_max_position = original_max_position > 0 ? original_max_position
                                                      : rope.integer("original_max_position_embeddings", 1,
                                                                     kPositionMax, config.max_position);
  // Yarn's is how much longer contexts became, unless it is stated.
  const auto longer = static_cast<double>(config.max_position) / static_cast<double>(r.original_max_position);
  const bool may_lack = r.kind == RopeScaling::Kind::kYarn && r.original_max_position < config.max_position;
  r.factor = rope.number("factor", 1e-3, 1e6, may_lack ? std::optional(longer) : std::nullopt);
  r.low_freq_factor = rope.number("low_freq_factor", 1e-3, 1e6, 1.0);
  r.high_freq_factor = rope.number("high_freq_factor", 1e-3, 1e6, 4.0);
  r.beta_fast = rope.number("beta_fast", 1e-3, 1e6, 32.0);
  r.beta_slow = rope.number("beta_slow", 1e-3, 1e6, 1.0);
  // Zero is as good as absent for both, as in the published code.
  r.mscale = rope.number("mscale", 0, 1e3, 0.0);
  r.mscale_all_dim = rope.number("mscale_all_dim", 0, 1e3, 0.0);
  r.truncate = rope.boolean("truncate", true);
  if (rope.find("attention_factor") != nullptr) r.attention_factor = rope.number("attention_factor", 0, 1e3);
}

void check_rope(JsonFields& rope, const ModelConfig& config) {
  const RopeScaling& r = config.rope;
  if (r.kind == RopeScaling::Kind::kYarn && config.rope_theta < kYarnThetaMin) {
    rope.fail(error(ErrorCode::kCorrupt, "{}: yarn with a rope_theta of {}, must be at least {}", rope.where(),
                    config.rope_theta, kYarnThetaMin));
  }
  if (r.kind == RopeScaling::Kind::kLlama3 && r.high_freq_factor <= r.low_freq_factor) {
    rope.fail(error(ErrorCode::kCorrupt, "{}: high_freq_factor {} must be above low_freq_factor {}", rope.where(),
                    r.high_freq_factor, r.low_freq_factor));
  }
}

// As SGLang: positions that are interpolated between reach further, unless the file says what the length was before.
void lengthen(const JsonFields& rope, ModelConfig& config) {
  const bool interpolates =
      config.rope.kind == RopeScaling::Kind::kLinear || config.rope.kind == RopeScaling::Kind::kYarn;
  if (!interpolates || config.rope.factor <= 1 || rope.find("original_max_position_embeddings") != nullptr) return;
  const double longer = static_cast<double>(config.max_position) * config.rope.factor;
  config.max_position = static_cast<int64_t>(std::min(longer, static_cast<double>(kPositionMax)));
}

void refuse_partial(JsonFields& fields) {
  if (fields.number("partial_rotary_factor", 0, 1, 1.0) == 1.0) return;
  fields.fail(error(ErrorCode::kIncompatible, "{}: partial_rotary_factor is not supported", fields.where()));
}

}  // namespace

void read_rope(JsonFields& fields, ModelConfig& config) {
  config.rope_theta = fields.number("rope_theta", 1, 1e12, 10000.0);
  refuse_partial(fields);
  const json::value* value = find_rope(fields);
  if (value == nullptr) return;
  if (!value->is_object()) {
    return fields.fail(error(ErrorCode::kCorrupt, "{}: rope_scaling is not an object", fields.where()));
  }
  JsonFields rope(value->get_object(), fields.where() + ": rope_scaling");
  for (const char* layers : {"full_attention", "sliding_attention"}) {
    if (rope.find(layers) == nullptr) continue;
    rope.fail(
        error(ErrorCode::kIncompatible, "{}: {}: one for every kind of layer is not supported", rope.where(), layers));
  }
  config.rope_theta = rope.number("rope_theta", 1, 1e12, config.rope_theta);
  refuse_partial(rope);
  read_kind(rope, config.rope);
  // It stands beside the others where a model's max_position_embeddings is of its long contexts.
  const int64_t original = fields.integer("original_max_position_embeddings", 1, kPositionMax, 0);
  if (config.rope.kind != RopeScaling::Kind::kNone) read_scaling(rope, config, original, config.rope);
  check_rope(rope, config);
  if (original == 0) lengthen(rope, config);
  if (Status status = rope.status(); !status) fields.fail(status.error());
}

void check_rope_factors(JsonFields& fields, const ModelConfig& config) {
  if (config.rope.kind != RopeScaling::Kind::kLongrope) return;
  const int pairs = (config.is_mla() ? config.qk_rope : config.head_dim) / 2;
  const size_t factors = config.rope.dimension_factors.size();
  if (factors == static_cast<size_t>(pairs)) return;
  fields.fail(error(ErrorCode::kCorrupt, "{}: rope_scaling: longrope has {} factors for {} pairs of dimensions",
                    fields.where(), factors, pairs));
}

}  // namespace baton::model
