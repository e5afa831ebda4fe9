#include "handoff/pairing.h"

#include <utility>

#include "tensor/dtype.h"
#include "transport/blob.h"

namespace baton::handoff {
namespace {

// Reads: "model digest decode 3f.., prefill 9a.."
template <typename T>
void compare(const char* what, const T& decode, const T& prefill, std::string* differences) {
  if (decode == prefill) return;
  if (!differences->empty()) *differences += "; ";
  *differences += fmt::format("{} {} here, {} there", what, decode, prefill);
}

std::string geometry_text(const layout::KvGeometry& g) {
  return fmt::format("{} layers x {} heads x ({}+{})", g.layers, g.kv_heads, g.k_dim, g.v_dim);
}

// Whether KV of that name is one that prefill converts from and to, and the geometry is of it.
Status check_dtype(const wire::Manifest& m, const char* who) {
  const Result<tensor::DType> dtype = tensor::parse_dtype(m.kv_dtype);
  if (!dtype || *dtype == tensor::DType::kF16)
    return error(ErrorCode::kIncompatible, "the {} manifest has KV of {}; use --kv-cache-dtype bfloat16", who,
                 m.kv_dtype);
  if (tensor::dtype_size(*dtype) != static_cast<size_t>(m.geometry.element_size))
    return error(ErrorCode::kIncompatible, "the {} manifest has KV of {} in {} bytes", who, m.kv_dtype,
                 m.geometry.element_size);
  return {};
}

Status check_regions(const wire::Manifest& m, const char* who) {
  if (m.regions.size() != static_cast<size_t>(m.layout.world()))
    return error(ErrorCode::kIncompatible, "the {} manifest names {} regions for {} ranks", who, m.regions.size(),
                 m.layout.world());
  for (int rank = 0; rank < m.layout.world(); ++rank) {
    const uint64_t page = layout::rank_page_shape(m.layout, rank, m.geometry, m.page_tokens).page_bytes();
    const uint64_t bytes = m.regions[static_cast<size_t>(rank)].bytes;
    if (page != 0 && bytes / page < static_cast<uint64_t>(m.pages_per_group))
      return error(ErrorCode::kIncompatible, "the {} manifest gives rank {} {} bytes, {} pages of {} bytes need more",
                   who, rank, bytes, m.pages_per_group, page);
  }
  return {};
}

}  // namespace

Result<layout::Planner> agree(const wire::Manifest& prefill, const wire::Manifest& decode) {
  const std::string sides =
      fmt::format("decode {} cannot take from prefill {}", decode.layout.to_string(), prefill.layout.to_string());
  if (prefill.role != wire::InstanceRole::kPrefill || decode.role != wire::InstanceRole::kDecode)
    return error(ErrorCode::kIncompatible,
                 "{}: both are {} instances; start one with --disaggregation-mode prefill and one with decode", sides,
                 prefill.role == wire::InstanceRole::kPrefill ? "prefill" : "decode");
  std::string remedy;
  const auto advise = [&remedy](bool differs, const char* what) {
    if (differs && remedy.find(what) == std::string::npos)
      remedy += (remedy.empty() ? "start both with the same " : " and ") + std::string(what);
  };
  std::string differences;
  compare("model digest", decode.model_digest.to_string(), prefill.model_digest.to_string(), &differences);
  advise(decode.model_digest != prefill.model_digest, "--model-path");
  const std::string decode_kv = geometry_text(decode.geometry), prefill_kv = geometry_text(prefill.geometry);
  compare("KV", decode_kv, prefill_kv, &differences);
  advise(decode_kv != prefill_kv, "--model-path");
  compare("transport", decode.transport, prefill.transport, &differences);
  advise(decode.transport != prefill.transport, "--disaggregation-transfer-backend");
  if (!differences.empty())
    return error(ErrorCode::kIncompatible, "{} (page_tokens {} here, {} there): {}; {}", sides, decode.page_tokens,
                 prefill.page_tokens, differences, remedy);
  // What is wrong alone before anything is planned: the geometry is our own on both sides from here on.
  for (const wire::Manifest* side : {&prefill, &decode}) {
    const char* who = side == &prefill ? "prefill" : "decode";
    Status sound = layout::check_layout(side->layout);
    if (sound) sound = check_dtype(*side, who);
    if (sound) sound = check_regions(*side, who);
    if (!sound) return error(ErrorCode::kIncompatible, "{}: {}", sides, sound.error().message);
  }
  Result<layout::Planner> planner =
      layout::Planner::make(decode.geometry, {prefill.layout, prefill.page_tokens}, {decode.layout, decode.page_tokens},
                            prefill.writer_policy, decode.fanout);
  if (!planner) return error(ErrorCode::kIncompatible, "{}: {}", sides, planner.error().message);
  return planner;
}

Status check_blob(const wire::Manifest& manifest) {
  const Result<Incarnation> owner = transport::blob_incarnation(manifest.transport_blob);
  if (!owner) return error(ErrorCode::kIncompatible, "{}", owner.error().message);
  if (*owner != manifest.incarnation)
    return error(ErrorCode::kIncompatible,
                 "the manifest is of instance {}, its transport address of {}: each instance tells its own",
                 manifest.incarnation.to_string(), owner->to_string());
  return {};
}

Result<wire::Manifest> complete_manifest(wire::Manifest self, wire::InstanceRole role,
                                         const transport::Transport& transport, const std::vector<Pool>& pools) {
  BATON_TRY(layout::check_layout(self.layout));
  if (self.page_tokens < 1 || self.pages_per_group < 1)
    return error(ErrorCode::kInvalidArgument, "{} pages of {} tokens: both must be at least 1", self.pages_per_group,
                 self.page_tokens);
  if (pools.size() != static_cast<size_t>(self.layout.world()))
    return error(ErrorCode::kInvalidArgument, "{} pools for the {} ranks of {}", pools.size(), self.layout.world(),
                 self.layout.to_string());
  self.role = role;
  self.transport = transport.caps().name;
  self.transport_blob = transport.local_blob();
  BATON_TRY(check_blob(self));
  self.regions.clear();
  for (int rank = 0; rank < self.layout.world(); ++rank) {
    const Pool& pool = pools[static_cast<size_t>(rank)];
    if (pool.shape != layout::rank_page_shape(self.layout, rank, self.geometry, self.page_tokens))
      return error(ErrorCode::kInvalidArgument, "the pool of rank {} has not the page shape of {}", rank,
                   self.layout.to_string());
    const uint64_t page = pool.shape.page_bytes();
    if (page != 0 && pool.memory.size / page < static_cast<uint64_t>(self.pages_per_group))
      return error(ErrorCode::kInvalidArgument, "the pool of rank {} has {} bytes, {} pages of {} bytes need more",
                   rank, pool.memory.size, self.pages_per_group, page);
    self.regions.push_back({pool.region.value(), pool.memory.size});
  }
  return self;
}

int world_rank(const layout::Layout& layout, int dp_rank, int r) {
  return layout.rank_of({r / layout.attn_tp(), dp_rank, r % layout.attn_tp()});
}

}  // namespace baton::handoff
