// What a made-up prefill instance, or who names one in a request, may do to a decode instance: nothing.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <ifaddrs.h>

#include "handoff/against_decode_test.h"

namespace baton::handoff {
namespace {

using namespace by_hand;

// An address of this machine that is not loopback; empty: there is none.
std::string own_address() {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(all, ::freeifaddrs);
  for (const ifaddrs* a = all; a != nullptr; a = a->ifa_next) {
    if (a->ifa_addr == nullptr || a->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN] = "";
    ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(a->ifa_addr)->sin_addr, text, sizeof(text));
    if (!std::string_view(text).starts_with("127.")) return text;
  }
  return {};
}

TEST_F(AgainstDecode, AnInstanceThatWasNotToldOfIsNotConnectedTo) {
  uint64_t attempt = 0;
  for (const char* host : {"192.0.2.1", "2001:db8::1", "0.0.0.0", "::", "::ffff:192.0.2.1", "prefill.example", "0",
                           "localhost.example", "169.254.169.254", "127.0.0.1.example"}) {
    ASSERT_TRUE(decode_->request(AttemptId(++attempt), host, port_, 0, 20));
    ASSERT_TRUE(over(attempt)) << host;
    const DecodeEnded& ended = *decode_->outcome(AttemptId(attempt)).ended;
    EXPECT_TRUE(ended.forbidden && ended.quiet) << host;
    EXPECT_NE(ended.message.find("--disaggregation-prefill-peers"), std::string::npos) << ended.message;
  }
  EXPECT_EQ(decode_->stats().failures["forbidden"], attempt);
  EXPECT_TRUE(all_free());
  const std::string own = own_address();
  if (own.empty()) return;
  listener_ = listen_on(own, 0).value();
  const uint16_t port = bound_address(listener_.get())->port();
  ASSERT_TRUE(decode_->request(AttemptId(++attempt), own, port, 0, 20));
  ASSERT_TRUE(over(attempt));
  EXPECT_FALSE(UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)).valid());
  // Told of it, it goes there.
  decode_->handoff().pair(own, port, true);
  ASSERT_TRUE(decode_->request(AttemptId(++attempt), own, port, 0, 20));
  auto peer = meet();
  EXPECT_EQ(peer->expect<wire::Grant>().attempt, AttemptId(attempt));
}

TEST_F(AgainstDecode, EveryFormOfALoopbackAddressIsThisMachine) {
  uint64_t attempt = 0;
  for (const char* host : {"127.0.0.1", "localhost", "::ffff:127.0.0.1"}) {
    ASSERT_TRUE(decode_->request(AttemptId(++attempt), host, 1, 0, 20, 0, 1s)) << host;
    ASSERT_TRUE(over(attempt)) << host;
    EXPECT_FALSE(decode_->outcome(AttemptId(attempt)).ended->forbidden) << host;
  }
}

TEST_F(AgainstDecode, NoCommonVersionIsSaidToBoth) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = accept();
  peer->send(wire::Hello{{5, 9}, wire::InstanceRole::kPrefill, false, {}});
  peer->expect<wire::Hello>();
  const std::string line =
      "this instance speaks handoff protocol 4 to 4, the peer 5 to 9: run the same version on both";
  EXPECT_EQ(peer->expect<wire::Refuse>().text, line);
  ASSERT_TRUE(over(1));
  EXPECT_EQ(decode_->outcome(AttemptId(1)).ended->message, line);
}

TEST_F(AgainstDecode, AManifestWithAnotherInstancesAddressIsRefused) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = accept();
  peer->greet(wire::InstanceRole::kPrefill);
  wire::Manifest stolen = manifest();
  stolen.incarnation = {9, 9};
  peer->expect<wire::Manifest>();
  peer->send(stolen);
  EXPECT_NE(peer->expect<wire::Refuse>().text.find("transport address"), std::string::npos);
}

TEST_F(AgainstDecode, ACommitOfMoreCopiesThanBytesIsNotCounted) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = meet();
  wire::Commit commit = commit_of(peer->expect<wire::Grant>());
  commit.copies = UINT64_MAX;
  peer->send(commit);
  ASSERT_TRUE(over(1));
  EXPECT_TRUE(decode_->outcome(AttemptId(1)).ended->corrupt);
}

class AgainstKeyedDecode : public AgainstDecode {
 protected:
  AgainstKeyedDecode() : AgainstDecode(10s, [](DecodeHandoffOptions& options) { options.key = kKey; }) { key = kKey; }
  static inline const std::string kKey = "0123456789abcdef0123456789abcdef";
};

TEST_F(AgainstKeyedDecode, WithTheKeyItMeetsWhomeverARequestNames) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = meet();
  EXPECT_EQ(peer->expect<wire::Grant>().attempt, AttemptId(1));
}

TEST_F(AgainstKeyedDecode, NothingIsToldToWhoHasNotProvedTheKey) {
  const auto forge = [&](uint64_t attempt, const wire::Hello& hello, const std::vector<wire::Frame>& more) {
    ASSERT_TRUE(decode_->request(AttemptId(attempt), "127.0.0.1", port_, 0, 20, 0, 3s));
    auto peer = accept();
    peer->expect<wire::Hello>();
    peer->send(hello);
    for (const wire::Frame& frame : more) peer->send(frame);
    const std::optional<wire::Frame> answer = peer->next();
    EXPECT_TRUE(!answer || std::holds_alternative<wire::Refuse>(*answer)) << wire::frame_name(*answer);
    EXPECT_TRUE(peer->closed());
    ASSERT_TRUE(over(attempt));
  };
  const wire::Hello keyed{wire::kProtocolVersions, wire::InstanceRole::kPrefill, true, {4}};
  wire::Hello unkeyed = keyed;
  unkeyed.keyed = false;
  forge(1, unkeyed, {});
  EXPECT_NE(decode_->outcome(AttemptId(1)).ended->message.find("--handoff-key-file"), std::string::npos);
  forge(2, keyed, {wire::Proof{}});
  forge(3, keyed, {manifest()});
  const std::string wrong = kKey + "x";
  forge(4, keyed, {Handshake(wire::InstanceRole::kPrefill, wrong).prove()});
  EXPECT_EQ(decode_->stats().pairings, 0u);
}

class AgainstHastyDecode : public AgainstDecode {
 protected:
  AgainstHastyDecode()
      : AgainstDecode(10s, [](DecodeHandoffOptions& options) {
          options.connect_timeout = 300ms;
          options.reconnect_min = options.reconnect_max = 50ms;
          options.connecting_max = 2;
        }) {}
};

TEST_F(AgainstHastyDecode, APrefillThatStopsInItsHandshakeIsGivenUp) {
  ASSERT_TRUE(decode_->request(AttemptId(1), "127.0.0.1", port_, 0, 20));
  auto peer = accept();
  peer->greet(wire::InstanceRole::kPrefill);
  ASSERT_TRUE(over(1));
  EXPECT_NE(decode_->outcome(AttemptId(1)).ended->message.find("did not answer within"), std::string::npos);
}

TEST_F(AgainstHastyDecode, OnlySoManyAddressesAreTriedAtATime) {
  std::vector<UniqueFd> listeners;
  for (int i = 0; i < 3; ++i) listeners.push_back(listen_on("127.0.0.1", 0).value());
  for (const UniqueFd& listener : listeners)
    decode_->handoff().pair("127.0.0.1", bound_address(listener.get())->port(), false);
  std::vector<UniqueFd> accepted;
  const auto accept_all = [&] {
    for (const UniqueFd& listener : listeners) {
      UniqueFd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (fd.valid()) accepted.push_back(std::move(fd));
    }
  };
  EXPECT_TRUE(eventually([&] {
    accept_all();
    return accepted.size() == 2;
  }));
  accept_all();
  EXPECT_EQ(accepted.size(), 2u) << "the third waits until one was given up";
  EXPECT_TRUE(eventually([&] {
    accept_all();
    return accepted.size() > 2;
  }));
}

}  // namespace
}  // namespace baton::handoff
