// tcp from and to pages on a card: the suite of every transport, and posts between both kinds of memory.
#include "transport/conformance_test.h"

namespace baton::transport::testing {

INSTANTIATE_TEST_SUITE_P(TcpOfCards, Conformance, ::testing::Values("tcp_cuda"), transport_name);
INSTANTIATE_TEST_SUITE_P(TcpOfCards, TwoProcesses, ::testing::Values("tcp_cuda"), transport_name);

namespace {

TEST(TcpOfCards, APostGoesFromAndToBothKindsOfMemory) {
  if (device::cuda_device_count() == 0) GTEST_SKIP() << "this machine has no GPU";
  constexpr uint64_t kBytes = 3 * kMiB, kBlock = 1000;
  const device::Home card{device::DeviceKind::kCuda, 0};
  const auto owner = make("tcp"), writer = make("tcp");
  Events events(*writer);
  std::vector<device::Buffer> sources, destinations;
  std::vector<RegionId> from, to;
  std::vector<WindowRange> window;
  for (const device::Home home : {card, device::Home{}, card}) {
    sources.push_back(device::Buffer::allocate(home, kBytes).value());
    from.push_back(writer->register_memory(sources.back().memory()).value());
    fill_random(sources.back().memory(), sources.size());
  }
  for (const device::Home home : {device::Home{}, card, card}) {
    destinations.push_back(device::Buffer::allocate(home, kBytes).value());
    to.push_back(owner->register_memory(destinations.back().memory()).value());
    window.push_back({to.back(), 0, kBytes});
  }
  ASSERT_TRUE(owner->open_window(token(1), window));
  std::vector<Block> blocks;
  for (uint64_t at = 0; at + kBlock <= kBytes; at += kBlock) {
    for (size_t i = 0; i < from.size(); ++i) blocks.push_back({from[i], at, to[i], at, kBlock});
  }
  const PeerId peer = *writer->connect(owner->local_blob());
  const TransferEvent event = events.wait(*writer->post_write(peer, blocks, token(1), in(20s)));
  ASSERT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  constexpr uint64_t kWhole = kBytes / kBlock * kBlock;
  for (size_t i = 0; i < from.size(); ++i)
    EXPECT_TRUE(get(destinations[i].memory().part(0, kWhole)) == get(sources[i].memory().part(0, kWhole))) << i;
}

}  // namespace
}  // namespace baton::transport::testing
