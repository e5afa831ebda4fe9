// For tests of the decode service against prefill instances that speak the frames by hand.
#pragma once

#include <gtest/gtest.h>

#include <atomic>

#include "handoff/control_test.h"
#include "handoff/pairing.h"
#include "transport/forwarding.h"

namespace baton::by_hand {

// A transport whose windows do not become quiet until told.
class BusyWindows final : public ForwardingTransport {
 public:
  using ForwardingTransport::ForwardingTransport;
  std::atomic<bool> busy{false};
  bool close_window(const WindowToken& token) override { return wrapped().close_window(token) && !busy; }
  bool window_quiet(const WindowToken& token) override { return wrapped().window_quiet(token) && !busy; }
};

class AgainstDecode : public testing::Test {
 protected:
  explicit AgainstDecode(Duration heartbeat = 10s)
      : transport_(loopback(kPrefill)), memory_(spec().prefill, spec().geometry, *transport_) {
    listener_ = listen_on("127.0.0.1", 0).value();
    port_ = bound_address(listener_.get())->port();
    auto busy = std::make_unique<BusyWindows>(loopback(kDecode));
    windows_ = busy.get();
    DecodeHandoffOptions options;
    options.heartbeat = heartbeat;
    decode_ = std::make_unique<TestDecode>(spec(), std::move(busy), options);
  }
  [[nodiscard]] Manifest manifest(Incarnation incarnation = kPrefill) const {
    Manifest self = complete_manifest(manifest_of(spec(), spec().prefill, incarnation), InstanceRole::kPrefill,
                                      *transport_, memory_.pools())
                        .value();
    if (incarnation != kPrefill) self.transport_blob = loopback(incarnation)->local_blob();
    return self;
  }
  // `hash_error` is added to the hash of the plan that the peer claims.
  std::unique_ptr<RawPeer> meet(Incarnation incarnation = kPrefill, uint64_t hash_error = 0) {
    UniqueFd fd;
    EXPECT_TRUE(eventually([&] {
      fd = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      return fd.valid();
    }));
    auto peer = std::make_unique<RawPeer>(std::move(fd));
    const Manifest self = manifest(incarnation);
    const Planner planner = agree(self, peer->expect<Manifest>()).value();
    peer->send(self);
    peer->send(Accept{planner.hash() + hash_error});
    EXPECT_EQ(peer->expect<Accept>().plan_hash, planner.hash());
    return peer;
  }
  bool over(uint64_t attempt) {
    return eventually([&] {
      decode_->pump();
      return decode_->over(AttemptId(attempt));
    });
  }
  bool all_free(Duration timeout = 5s) {
    return eventually(
        [&] {
          decode_->pump();
          return decode_->all_free();
        },
        timeout);
  }
  static Commit commit_of(const Grant& grant) {
    Commit commit;
    commit.attempt = grant.attempt;
    commit.decode = kDecode;
    commit.prefill = kPrefill;
    commit.grant_digest = grant_digest(grant);
    commit.first.token = 5;
    commit.bytes = expected_bytes(spec(), grant.prompt_tokens, grant.cached_tokens);
    commit.copies = 1;
    commit.checksum_pages = static_cast<uint32_t>(grant.pages.size());
    commit.checksums.assign(grant.pages.size(), 0);
    return commit;
  }

  std::unique_ptr<Transport> transport_;
  Memory memory_;
  UniqueFd listener_;
  uint16_t port_ = 0;
  BusyWindows* windows_ = nullptr;
  std::unique_ptr<TestDecode> decode_;
};

}  // namespace baton::by_hand
