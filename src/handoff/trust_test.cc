#include "handoff/trust.h"

#include <gtest/gtest.h>

namespace baton::handoff {
namespace {

SocketAddress address(const std::string& text) { return make_address(text, 1, /*lookup=*/false).value(); }

TEST(Trust, LoopbackHasManyForms) {
  for (const char* text : {"127.0.0.1", "127.1.2.3", "127.1", "0x7f000001", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"})
    EXPECT_TRUE(is_loopback(address(text))) << text;
  for (const char* text :
       {"128.0.0.1", "10.0.0.1", "::2", "::ffff:10.0.0.1", "::127.0.0.1", "0.0.0.0", "::", "fe80::1"})
    EXPECT_FALSE(is_loopback(address(text))) << text;
  for (const char* text : {"0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"})
    EXPECT_TRUE(is_unspecified(address(text))) << text;
  EXPECT_FALSE(is_unspecified(address("127.0.0.1")));
  EXPECT_EQ(canonical_text(address("::ffff:10.0.0.1")), "10.0.0.1");
  EXPECT_EQ(canonical_text(address("2001:DB8:0:0::1")), "2001:db8::1");
}

TEST(Trust, ListedPeersByNameOrAddressWithOrWithoutPort) {
  const TrustedPeers peers = TrustedPeers::parse({"10.0.0.5", "10.0.0.6:9000", "Prefill-0.example", "p1.example:8998",
                                                  "[2001:db8::1]:7", "fd00::2"})
                                 .value();
  struct Case {
    const char* host;
    uint16_t port;
    bool may;
  };
  for (const Case& c : {Case{"10.0.0.5", 1, true},
                        {"::ffff:10.0.0.5", 2, true},
                        {"10.0.0.6", 9000, true},
                        {"10.0.0.6", 9001, false},
                        {"10.0.0.7", 9000, false},
                        {"prefill-0.EXAMPLE", 5, true},
                        {"p1.example", 8998, true},
                        {"p1.example", 8999, false},
                        {"p2.example", 8998, false},
                        {"2001:db8:0::1", 7, true},
                        {"2001:db8::1", 8, false},
                        {"fd00::2", 9, true},
                        {"127.0.0.1", 3, true},
                        {"localhost", 3, true},
                        {"LOCALHOST", 3, true},
                        {"localhost.example", 3, false},
                        {"0.0.0.0", 3, false},
                        {"::", 3, false}})
    EXPECT_EQ(peers.may_ask_for(c.host, c.port), c.may) << c.host << " " << c.port;
}

// The address that a name leads to is what counts, unless the name itself was told.
TEST(Trust, ANameIsWorthWhatItLeadsTo) {
  TrustedPeers peers = TrustedPeers::parse({"10.0.0.5", "prefill.example"}).value();
  EXPECT_TRUE(peers.may_connect("localhost", 1, address("127.0.0.1")));
  EXPECT_TRUE(peers.may_connect("localhost", 1, address("::1")));
  EXPECT_FALSE(peers.may_connect("localhost", 1, address("10.0.0.9"))) << "a loopback name that leads elsewhere";
  EXPECT_TRUE(peers.may_connect("prefill.example", 1, address("10.9.9.9")));
  EXPECT_FALSE(peers.may_connect("prefill.example", 1, address("0.0.0.0")));
  EXPECT_FALSE(peers.may_connect("other.example", 1, address("10.9.9.9")));
  EXPECT_FALSE(peers.may_ask_for("other.example", 8));
  EXPECT_TRUE(peers.tell("Other.example", 8));
  EXPECT_TRUE(peers.may_ask_for("other.example", 8));
  EXPECT_FALSE(peers.may_ask_for("other.example", 9));
  EXPECT_TRUE(peers.may_connect("other.example", 8, address("10.9.9.9")));
  bool more = true;
  for (int i = 0; i < 5000; ++i) more = peers.tell(fmt::format("p{}.example", i), 1);
  EXPECT_FALSE(more) << "bounded";
  EXPECT_TRUE(peers.tell("other.example", 8)) << "known already";
}

TEST(Trust, WrongEntriesAreNamed) {
  for (const char* entry :
       {"", ":8998", "host:", "host:0", "host:65536", "host:x", "[::1", "[]:1", "http://host", "a b", "[::1]x"}) {
    const auto parsed = TrustedPeers::parse({entry});
    ASSERT_FALSE(parsed.ok()) << entry;
    EXPECT_NE(parsed.error().message.find("--disaggregation-prefill-peers"), std::string::npos);
  }
}

}  // namespace
}  // namespace baton::handoff
