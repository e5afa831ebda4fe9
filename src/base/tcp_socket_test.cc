#include "base/tcp_socket.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>

#include <vector>

#include "base/listener.h"

namespace baton {
namespace {

TEST(TcpAddress, IsReadInEveryForm) {
  struct Case {
    const char* text;
    const char* host;  // null: refused
    uint16_t port;
  };
  for (const Case& c :
       {Case{"127.0.0.1", "127.0.0.1", 0}, Case{"127.0.0.1:80", "127.0.0.1", 80}, Case{"::1", "::1", 0},
        Case{"[::1]:80", "::1", 80}, Case{"[2605:340::1]", "2605:340::1", 0}, Case{"2605:340::1", "2605:340::1", 0},
        Case{"[::1", nullptr, 0}, Case{"[::1]80", nullptr, 0}, Case{"1.2.3.4:x", nullptr, 0},
        Case{"1.2.3.4:70000", nullptr, 0}, Case{"localhost", nullptr, 0}}) {
    const auto address = parse_address(c.text, /*lookup=*/false);
    ASSERT_EQ(address.ok(), c.host != nullptr) << c.text;
    if (c.host == nullptr) continue;
    EXPECT_EQ(address->host(), c.host);
    EXPECT_EQ(address->port(), c.port);
  }
}

UniqueFd dial(const Listener& listener) {
  UniqueFd fd = begin_connect(bound_address(listener.fd()).value()).value();
  pollfd entry{.fd = fd.get(), .events = POLLOUT, .revents = 0};
  EXPECT_EQ(::poll(&entry, 1, 5000), 1);
  EXPECT_EQ(connect_error(fd.get()), 0);
  return fd;
}

TEST(Listener, HandsOutWhatIsWaitingAndNothingMore) {
  Listener listener(listen_on(make_address("127.0.0.1", 0, false).value()).value());
  TimePoint now{};
  EXPECT_FALSE(listener.accept(now).valid());
  EXPECT_FALSE(listener.paused(now));
  const UniqueFd client = dial(listener);
  EXPECT_TRUE(listener.accept(now).valid());
  EXPECT_FALSE(listener.accept(now).valid());
}

TEST(Listener, IsNotWorthWaitingForWithoutADescriptor) {
  Listener listener(listen_on(make_address("127.0.0.1", 0, false).value()).value());
  TimePoint now{};
  const UniqueFd client = dial(listener);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const bool accepted = listener.accept(now).valid();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(accepted);
  EXPECT_TRUE(listener.paused(now));
  now += Listener::kPause;
  EXPECT_FALSE(listener.paused(now));
  EXPECT_TRUE(listener.accept(now).valid()) << "who waited is served once a descriptor is free";
}

}  // namespace
}  // namespace baton
