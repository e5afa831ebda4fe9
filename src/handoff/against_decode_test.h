// For tests of the decode service against prefill instances that speak the frames by hand.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "handoff/control_test.h"
#include "handoff/pairing.h"
#include "transport/forwarding.h"

namespace baton::handoff::by_hand {

// A transport whose windows do not become quiet until told.
class BusyWindows final : public transport::ForwardingTransport {
 public:
  using transport::ForwardingTransport::ForwardingTransport;
  std::atomic<bool> busy{false};
  bool close_window(const transport::WindowToken& token) override { return wrapped().close_window(token) && !busy; }
  bool window_quiet(const transport::WindowToken& token) override { return wrapped().window_quiet(token) && !busy; }
};

class AgainstDecode : public testing::Test {
 protected:
  explicit AgainstDecode(
      Duration heartbeat = 10s, const std::function<void(DecodeHandoffOptions&)>& change = [](DecodeHandoffOptions&) {})
      : transport_(loopback(kPrefill)), memory_(spec().prefill, spec().geometry, *transport_) {
    listener_ = listen_on("127.0.0.1", 0).value();
    port_ = bound_address(listener_.get())->port();
    auto busy = std::make_unique<BusyWindows>(loopback(kDecode));
    windows_ = busy.get();
    DecodeHandoffOptions options;
    options.heartbeat = heartbeat;
    change(options);
    decode_ = std::make_unique<TestDecode>(spec(), std::move(busy), options);
  }
  [[nodiscard]] wire::Manifest manifest(Incarnation incarnation = kPrefill) const {
    wire::Manifest self = complete_manifest(manifest_of(spec(), spec().prefill, kPrefill), wire::InstanceRole::kPrefill,
                                            *transport_, memory_.pools())
                              .value();
    if (incarnation == kPrefill) return self;
    self.incarnation = incarnation;
    self.transport_blob = loopback(incarnation)->local_blob();
    return self;
  }
  // `hash_error` is added to the hash of the plan that the peer claims.
  std::unique_ptr<RawPeer> accept() {
    UniqueFd fd;
    BATON_CHECK(eventually([&] {
                  fd = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
                  return fd.valid();
                }),
                "decode did not connect");
    return std::make_unique<RawPeer>(std::move(fd));
  }
  std::unique_ptr<RawPeer> meet(Incarnation incarnation = kPrefill, uint64_t hash_error = 0) {
    auto peer = accept();
    peer->greet(wire::InstanceRole::kPrefill, key);
    const wire::Manifest self = manifest(incarnation);
    const wire::Manifest decode = peer->expect<wire::Manifest>();
    const layout::Planner planner = agree(self, decode).value();
    peer->send(self);
    peer->send(peer->handshake().accept(decode, self, planner.hash() + hash_error));
    EXPECT_EQ(peer->expect<wire::Accept>().plan_hash, planner.hash());
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
  static wire::Commit commit_of(const wire::Grant& grant) {
    wire::Commit commit;
    commit.attempt = grant.attempt;
    commit.decode = kDecode;
    commit.prefill = kPrefill;
    commit.grant_digest = wire::grant_digest(grant);
    commit.first.token = 5;
    commit.bytes = expected_bytes(spec(), grant.prompt_tokens, grant.cached_tokens);
    commit.copies = 1;
    commit.checksum_pages = static_cast<uint32_t>(grant.pages.size());
    commit.checksums.assign(grant.pages.size(), 0);
    return commit;
  }

  std::string key;  // of prefill instances
  std::unique_ptr<transport::Transport> transport_;
  PatternPools memory_;
  UniqueFd listener_;
  uint16_t port_ = 0;
  BusyWindows* windows_ = nullptr;
  std::unique_ptr<TestDecode> decode_;
};

}  // namespace baton::handoff::by_hand
