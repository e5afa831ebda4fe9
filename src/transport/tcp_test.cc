#include "transport/tcp.h"

#include <gtest/gtest.h>

#include "base/tcp_socket.h"
#include "transport/blob.h"
#include "transport/test_support.h"

namespace baton::transport::tcp {
namespace {

using namespace baton::transport::testing;

TEST(TcpTransport, WorksOverIPv6) {
  TransportOptions options;
  options.bind_address = "::1";
  auto owner = make_transport("tcp", options);
  ASSERT_TRUE(owner.ok()) << owner.error().message;
  EXPECT_EQ(decode_blob((*owner)->local_blob(), BlobKind::kTcp)->address, "::1");
  const auto to = (*owner)->allocate(4096).value();
  auto writer = make("tcp", options);
  Events events(*writer);
  const auto from = writer->allocate(4096).value();
  fill(from.memory.host(), 9);
  const WindowRange all{to.id, 0, 4096};
  ASSERT_TRUE((*owner)->open_window(token(1), std::span(&all, 1)));
  const Block block{from.id, 0, to.id, 0, 4096};
  const PeerId peer = *writer->connect((*owner)->local_blob());
  EXPECT_EQ(events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s))).outcome,
            TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(to.memory.host(), 9));
}

std::string told_by(const TransportOptions& options) {
  return decode_blob(make("tcp", options)->local_blob(), BlobKind::kTcp)->address;
}

TEST(TcpTransport, PeersAreToldAnAddressThatIsOne) {
  TransportOptions options;
  EXPECT_EQ(told_by(options), "127.0.0.1");
  options.advertise_host = "127.0.0.2";
  EXPECT_EQ(told_by(options), "127.0.0.2");
  for (const char* every : {"0.0.0.0", "::"}) {
    options.bind_address = every;
    options.advertise_host = "127.0.0.1";
    EXPECT_EQ(told_by(options), "127.0.0.1");
    options.advertise_host.clear();
    if (const auto own = default_route_address(false)) {
      EXPECT_FALSE(own->wildcard());
      const std::string told = told_by(options);
      EXPECT_TRUE(told == own->host() || told == default_route_address(true)->host()) << told;
    } else {
      EXPECT_NE(make_transport("tcp", options).error().message.find("--advertise-host"), std::string::npos);
    }
  }
}

// A peer that accepts and says nothing: a listener whose backlog answers for a process that does not.
TEST(TcpTransport, APeerThatNeverAnswersTheHelloIsLost) {
  const UniqueFd silent = listen_on(make_address("127.0.0.1", 0, false).value()).value();
  const PeerBlob blob{.kind = BlobKind::kTcp,
                      .incarnation = {5, 5},
                      .address = "127.0.0.1",
                      .port = bound_address(silent.get())->port()};
  TransportOptions options;
  options.connect_timeout = 300ms;
  auto writer = make("tcp", options);
  Events events(*writer);
  const auto from = writer->allocate(4096).value();
  const Block block{from.id, 0, RegionId(1), 0, 4096};
  const auto id = *writer->post_write(*writer->connect(encode_blob(blob)), std::span(&block, 1), token(1), in(20s));
  const TransferEvent event = events.wait(id, 5s);
  EXPECT_EQ(event.outcome, TransferOutcome::kPeerLost);
  EXPECT_TRUE(event.remote_quiesced) << "nothing but a hello was sent";
}

}  // namespace
}  // namespace baton::transport::tcp
