#include "handoff/control_connection.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>

namespace baton::handoff {
namespace {

std::array<UniqueFd, 2> socket_pair() {
  int fds[2];
  BATON_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0, "socketpair");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

TEST(ControlConnection, APeerThatDoesNotReadIsGivenUpBeforeItTakesAllMemory) {
  auto [ours, theirs] = socket_pair();
  ControlConnection connection(std::move(ours), TimePoint{});
  wire::Commit large;
  large.attempt = AttemptId(1);
  large.checksums.resize(wire::kChecksumsMax);
  for (int i = 0; i < 10 && !connection.broken(); ++i) connection.send(large);
  EXPECT_NE(connection.why().find("does not read"), std::string::npos) << connection.why();
  EXPECT_LT(connection.buffered(), 5 * wire::kFrameBytesMax);
  connection.abandon("over");
  EXPECT_LT(connection.buffered(), 1000u);
}

TEST(ControlConnection, AnUnpairedPeerMaySendShortFramesOnly) {
  auto [ours, theirs] = socket_pair();
  ControlConnection connection(std::move(ours), TimePoint{});
  const uint32_t length = wire::kFrameBytesMaxUnpaired;
  ASSERT_EQ(::send(theirs.get(), &length, sizeof(length), 0), static_cast<ssize_t>(sizeof(length)));
  connection.receive(TimePoint{});
  EXPECT_FALSE(connection.next().ok());
  EXPECT_TRUE(connection.broken());
}

TEST(ControlConnection, MemoryOfALongFrameIsGivenBack) {
  auto [ours, theirs] = socket_pair();
  ControlConnection writer(std::move(theirs), TimePoint{}), reader(std::move(ours), TimePoint{});
  reader.set_paired();
  wire::Grant grant;
  grant.attempt = AttemptId(1);
  grant.prompt_tokens = 1;
  grant.pages.resize(200'000);
  writer.send(grant);
  bool came = false;
  for (int i = 0; i < 1000 && !came; ++i) {
    writer.flush();
    reader.receive(TimePoint{});
    came = reader.next().value().has_value();
  }
  ASSERT_TRUE(came);
  EXPECT_FALSE(reader.has_input());
  reader.receive(TimePoint{});
  EXPECT_LT(reader.buffered(), 200'000u);
  EXPECT_LT(writer.buffered(), 200'000u);
}

}  // namespace
}  // namespace baton::handoff
