// For tests: an executor with pages of its own, and checkpoints written on the spot.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/test_dir.h"
#include "model/executor.h"

namespace baton::model::test {

struct StoredTensor {
  std::string dtype;  // as safetensors writes it
  std::vector<int64_t> shape;
  std::string bytes;
};

// Writes DIR/model.safetensors.
inline void write_safetensors(const std::string& directory, const std::map<std::string, StoredTensor>& tensors) {
  std::string header = "{";
  size_t offset = 0;
  for (const auto& [name, t] : tensors) {
    header += fmt::format("{}\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          header.size() > 1 ? "," : "", name, t.dtype, fmt::join(t.shape, ","), offset,
                          offset + t.bytes.size());
    offset += t.bytes.size();
  }
  header += "}";
  std::ofstream file(directory + "/model.safetensors", std::ios::binary);
  const uint64_t length = header.size();
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file << header;
  for (const auto& [name, t] : tensors) file << t.bytes;
}

// `sequences` of tokens, each in pages of its own.
class TestInstance {
 public:
  static constexpr int64_t kTokensMax = 640;

  // keeps_logits: run() gives them, and steps come one at a time.
  TestInstance(ExecutorOptions options, ModelConfig config, int sequences, bool keeps_logits = true)
      : options_(std::move(options)), config_(std::move(config)) {
    const int per_sequence = static_cast<int>((kTokensMax + options_.page_tokens - 1) / options_.page_tokens);
    for (int s = 0; s < sequences; ++s) {
      // Odd pages first: the order of a sequence's pages must not matter.
      std::vector<uint32_t> pages;
      for (int i = 1; i < per_sequence; i += 2) pages.push_back(static_cast<uint32_t>(s * per_sequence + i));
      for (int i = 0; i < per_sequence; i += 2) pages.push_back(static_cast<uint32_t>(s * per_sequence + i));
      pages_.push_back(std::move(pages));
    }
    std::vector<device::Memory> pools;
    for (int r = 0; r < options_.layout.world(); ++r) {
      const layout::PageShape shape =
          layout::rank_page_shape(options_.layout, r, config_.kv_geometry(options_.kv_dtype), options_.page_tokens);
      memory_.emplace_back(shape.page_bytes() * static_cast<size_t>(sequences * per_sequence));
    }
    for (auto& m : memory_) pools.push_back(device::Memory::of(m));
    if (keeps_logits) options_.logits = &logits_;
    auto made = make_thread_executor(options_, config_, pools);
    if (made.ok()) {
      executor_ = std::move(*made);
    } else {
      failure_ = made.error();
    }
  }

  [[nodiscard]] const std::optional<Error>& failure() const { return failure_; }
  [[nodiscard]] kv::Segment segment(int sequence, int64_t begin, std::vector<int32_t> tokens, int logits_rows,
                                    int dp_rank = 0) const {
    tokens_.push_back(std::move(tokens));
    return {SequenceId(static_cast<uint64_t>(sequence) + 1), dp_rank, begin,      tokens_.back(),
            pages_[static_cast<size_t>(sequence)],           -1,      logits_rows};
  }
  StepLogits run(std::vector<kv::Segment> segments) {
    const Status done = compute_logits(*executor_, kv::StepPlan{std::move(segments)}, logits_);
    EXPECT_TRUE(done.ok()) << done.error().message;
    return logits_;
  }
  [[nodiscard]] Executor& executor() { return *executor_; }
  [[nodiscard]] const ModelConfig& config() const { return config_; }

 private:
  ExecutorOptions options_;
  ModelConfig config_;
  std::vector<std::vector<uint32_t>> pages_;
  mutable std::deque<std::vector<int32_t>> tokens_;  // of every segment so far
  std::vector<std::vector<std::byte>> memory_;
  StepLogits logits_;
  std::unique_ptr<Executor> executor_;
  std::optional<Error> failure_;
};

inline double relative_error(const std::vector<float>& ours, const std::vector<float>& theirs) {
  EXPECT_EQ(ours.size(), theirs.size());
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    difference += (ours[i] - theirs[i]) * (ours[i] - theirs[i]);
    norm += theirs[i] * theirs[i];
  }
  return std::sqrt(difference / norm);
}

// Two sequences: a prompt of 90 and one of 37 tokens in chunks of 50, then six decode steps; sequence i lives in DP
// group i % dp. Every row of logits of the 37 + 90 + 12 tokens, in the order of the steps.
inline std::vector<float> drive(TestInstance& instance, int dp, int chunk = 50) {
  const int64_t prompts[] = {90, 37};
  std::vector<float> all[2];
  int64_t done[2] = {0, 0};
  const auto token = [&](int s, int64_t i) {
    return static_cast<int32_t>((i * 37 + s * 101 + 11) % instance.config().vocab);
  };
  while (done[0] < prompts[0] + 6) {
    std::vector<kv::Segment> segments;
    int64_t taken[2] = {0, 0};
    for (int s = 0; s < 2; ++s) {
      if (done[s] >= prompts[s] + 6) continue;
      const int64_t n = done[s] < prompts[s] ? std::min<int64_t>(chunk, prompts[s] - done[s]) : 1;
      std::vector<int32_t> tokens;
      for (int64_t i = 0; i < n; ++i) tokens.push_back(token(s, done[s] + i));
      segments.push_back(instance.segment(s, done[s], tokens, static_cast<int>(n), s % dp));
      taken[s] = n;
    }
    const StepLogits result = instance.run(segments);
    size_t at = 0;
    for (int s = 0; s < 2; ++s) {
      if (taken[s] == 0) continue;
      all[s].insert(all[s].end(), result.row(at, 0), result.row(at, 0) + taken[s] * result.vocab);
      done[s] += taken[s];
      ++at;
    }
  }
  all[0].insert(all[0].end(), all[1].begin(), all[1].end());
  return all[0];
}

}  // namespace baton::model::test
