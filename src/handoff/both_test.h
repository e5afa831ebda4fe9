// A prefill and a decode service in one process, over pools of known bytes.
#pragma once

#include <gtest/gtest.h>

#include <thread>

#include "handoff/rig_test.h"

namespace baton::handoff {

struct Both {
  explicit Both(const PairSpec& spec, const std::string& transport = "loopback",
                PrefillHandoffOptions prefill_options = {}, DecodeHandoffOptions decode_options = {},
                int corrupt_post = 0)
      : prefill(spec, corrupting_transport(transport_of(transport), corrupt_post), prefill_options),
        decode(spec, transport_of(transport), std::move(decode_options)) {}

  template <typename Done>
  bool run_until(Done done, Duration timeout = std::chrono::seconds(20)) {
    const TimePoint until = SteadyClock().now() + timeout;
    while (SteadyClock().now() < until) {
      prefill.pump();
      decode.pump();
      if (done()) return true;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    return false;
  }
  void start(AttemptId attempt, int dp_prefill, int dp_decode, int64_t tokens, int64_t cached = 0,
             Duration timeout = std::chrono::seconds(20)) {
    ASSERT_TRUE(decode.request(attempt, "127.0.0.1", prefill.port(), dp_decode, tokens, cached, timeout));
    prefill.begin(attempt, dp_prefill, tokens, timeout);
  }
  bool settle(Duration timeout = std::chrono::seconds(20)) {
    return run_until([&] { return decode.all_over() && prefill.idle() && prefill.all_free() && decode.all_free(); },
                     timeout);
  }
  void expect_clean() {
    EXPECT_TRUE(prefill.all_free());
    EXPECT_TRUE(decode.all_free());
    EXPECT_EQ(decode.touched_free_pages(), "");
    EXPECT_EQ(prefill.stats().attempts_live, 0u);
    EXPECT_EQ(decode.stats().attempts_live, 0u);
    EXPECT_EQ(decode.stats().attempts_quarantined, 0u);
  }

  TestPrefill prefill;
  TestDecode decode;
};

inline PairSpec spec_of(std::string name, layout::KvGeometry geometry, layout::Layout prefill, layout::Layout decode,
                        int prefill_page = 8, int decode_page = 8, layout::Fanout fanout = layout::Fanout::kDirect) {
  // 96 pages, or what the longest prompt here needs.
  const auto pages = [](int page) { return std::max(96, 256 / page); };
  return {std::move(name),
          geometry,
          {prefill, prefill_page, pages(prefill_page)},
          {decode, decode_page, pages(decode_page)},
          fanout};
}

// Its instances hold KV of two element types.
inline PairSpec converting(PairSpec spec, tensor::DType from, tensor::DType to) {
  spec.prefill.kv = from;
  spec.decode.kv = to;
  return spec;
}

inline PairSpec small() { return spec_of("small", gqa_geometry(), {.tp = 2}, {.tp = 4, .dp = 2}); }

}  // namespace baton::handoff
