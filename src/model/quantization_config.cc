#include "model/quantization_config.h"

namespace baton::model {

namespace json = boost::json;

namespace {

constexpr int kBlockMax = 1 << 20;
constexpr size_t kGroupsMax = 64;

void refuse(JsonFields& fields, const std::string& what) {
  fields.fail(
      error(ErrorCode::kIncompatible,
            "{} is not supported: {}; fp8, compressed-tensors, fbgemm_fp8 and modelopt with 8-bit floating point "
            "weights are",
            fields.where(), what));
}

// One side of a square block, or nothing if the field is not there.
void read_block(JsonFields& quantization, const char* name, ModelConfig& config) {
  const std::vector<int32_t> block = quantization.ids(name);
  if (block.empty()) return;
  if (block.size() != 2 || block[0] != block[1] || block[0] < 1 || block[0] > kBlockMax) {
    return refuse(quantization, fmt::format("{} is no square", name));
  }
  config.fp8_block = block[0];
}

// {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}, "targets": ["Linear"], ...}
void read_group(const json::value& value, JsonFields& quantization, ModelConfig& config) {
  const json::object* group = value.if_object();
  const json::value* weights = group == nullptr ? nullptr : group->if_contains("weights");
  if (weights == nullptr || !weights->is_object())
    return refuse(quantization, "a group of config_groups has no weights");
  JsonFields fields(weights->get_object(), quantization.where() + ": config_groups: weights");
  const int bits = fields.count("num_bits", 1, 64, 8);
  const std::string type = fields.text("type", "int");
  const std::string strategy = fields.text("strategy", "tensor");
  if (bits != 8 || type != "float" || (strategy != "tensor" && strategy != "channel" && strategy != "block")) {
    refuse(fields, fmt::format("{} bits, type {}, strategy {}", bits, type, strategy));
  }
  read_block(fields, "block_structure", config);
  if (Status status = fields.status(); !status) quantization.fail(status.error());
}

void read_groups(JsonFields& quantization, ModelConfig& config) {
  const json::value* groups = quantization.find("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->get_object().empty()) {
    return refuse(quantization, "config_groups is missing or no object");
  }
  if (groups->get_object().size() > kGroupsMax) {
    return refuse(quantization, fmt::format("config_groups has more than {}", kGroupsMax));
  }
  for (const auto& [name, group] : groups->get_object()) read_group(group, quantization, config);
}

}  // namespace

void read_quantization(JsonFields& fields, ModelConfig& config) {
  const json::value* value = fields.find_any({"quantization_config", "compression_config"});
  if (value == nullptr) return;
  if (!value->is_object()) {
    return fields.fail(error(ErrorCode::kCorrupt, "{}: quantization_config is not an object", fields.where()));
  }
  JsonFields quantization(value->get_object(), fields.where() + ": quantization_config");
  const std::string method = quantization.text("quant_method", "");
  if (method == "compressed-tensors") {
    read_groups(quantization, config);
  } else if (method == "fp8" || method == "fbgemm_fp8") {
    read_block(quantization, "weight_block_size", config);
  } else if (method != "modelopt" || quantization.text("quant_algo", "") != "FP8") {
    refuse(quantization, fmt::format("method {}", method.empty() ? "(none)" : method));
  }
  config.fp8_weights = true;
  if (Status status = quantization.status(); !status) fields.fail(status.error());
}

}  // namespace baton::model
