// The transport of pages on cards.
#include "transport/conformance_test.h"

namespace baton::transport::testing {

INSTANTIATE_TEST_SUITE_P(Cards, Conformance, ::testing::Values("cuda_ipc"), transport_name);
INSTANTIATE_TEST_SUITE_P(Cards, TwoProcesses, ::testing::Values("cuda_ipc"), transport_name);

namespace {

class CudaIpc : public ::testing::Test {
 protected:
  void SetUp() override {
    if (device::cuda_device_count() == 0) GTEST_SKIP() << "this machine has no GPU";
  }
};

// Pages of an instance lie in buffers of its own, one a card; a post may write from and to several of them.
TEST_F(CudaIpc, RegionsOfSeveralCardsAreServed) {
  const int cards = device::cuda_device_count();
  auto owner = make("cuda_ipc"), writer = make("cuda_ipc");
  Events events(*writer);
  constexpr uint64_t kBytes = 3 * kMiB;
  std::vector<device::Buffer> sources, destinations;
  std::vector<RegionId> from, to;
  std::vector<WindowRange> window;
  for (int i = 0; i < 3; ++i) {
    const device::Home home{device::DeviceKind::kCuda, i % cards}, other{device::DeviceKind::kCuda, (i + 1) % cards};
    sources.push_back(device::Buffer::allocate(home, kBytes).value());
    destinations.push_back(device::Buffer::allocate(other, kBytes).value());
    from.push_back(writer->register_memory(sources.back().memory()).value());
    to.push_back(owner->register_memory(destinations.back().memory()).value());
    fill_random(sources.back().memory(), static_cast<uint64_t>(i));
    window.push_back({to.back(), 0, kBytes});
  }
  ASSERT_TRUE(owner->open_window(token(1), window));
  std::vector<Block> blocks;
  for (uint64_t at = 0; at < kBytes; at += 4096) {
    for (size_t i = 0; i < 3; ++i) blocks.push_back({from[i], at, to[i], at, 4096});
  }
  const PeerId peer = *writer->connect(owner->local_blob());
  const TransferEvent event = events.wait(*writer->post_write(peer, blocks, token(1), in(20s)));
  ASSERT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(get(destinations[i].memory()) == get(sources[i].memory())) << i;
}

// A part of a driver's allocation, in another process: found where it is.
TEST_F(CudaIpc, APartOfAnAllocationIsMappedWhereItIs) {
  Child child("cuda_ipc", 3 * 4096);
  auto writer = make("cuda_ipc");
  Events events(*writer);
  const device::Buffer source = device::Buffer::allocate({device::DeviceKind::kCuda, 0}, 3 * kMiB).value();
  fill(source.memory(), 7);
  const RegionId from = writer->register_memory(source.memory().part(kMiB, 8192)).value();
  ASSERT_EQ(child.ask("open 1"), "ok");
  const PeerId peer = *writer->connect(child.blob());
  const Block block{from, 0, RegionId(1), 4096, 8192};
  const TransferEvent event = events.wait(*writer->post_write(peer, std::span(&block, 1), token(1), in(20s)));
  ASSERT_EQ(event.outcome, TransferOutcome::kDone) << event.detail;
  EXPECT_EQ(child.ask("count 7"), "8192");
  EXPECT_EQ(child.ask("count 0"), "4096");
}

}  // namespace
}  // namespace baton::transport::testing
