#include "base/port_owner.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace baton {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A socket bound to a free loopback port of its family.
struct Bound {
  explicit Bound(int family) : fd(::socket(family, SOCK_STREAM, 0)) {
    sockaddr_in6 six{};
    sockaddr_in four{};
    four.sin_family = AF_INET;
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    six.sin6_family = AF_INET6;
    six.sin6_addr = in6addr_loopback;
    auto* address = family == AF_INET ? reinterpret_cast<sockaddr*>(&four) : reinterpret_cast<sockaddr*>(&six);
    socklen_t length = family == AF_INET ? sizeof(four) : sizeof(six);
    ok = ::bind(fd, address, length) == 0 && ::getsockname(fd, address, &length) == 0;
    port = ntohs(family == AF_INET ? four.sin_port : six.sin6_port);
  }
  ~Bound() { ::close(fd); }
  int fd;
  bool ok = false;
  uint16_t port = 0;
};

TEST(PortOwner, NamesThisProcessForBothFamilies) {
  for (const int family : {AF_INET, AF_INET6}) {
    Bound bound(family);
    if (family == AF_INET6 && !bound.ok) GTEST_SKIP() << "no IPv6 here";
    ASSERT_TRUE(bound.ok && ::listen(bound.fd, 1) == 0) << std::strerror(errno);
    EXPECT_THAT(bind_failure_text(EADDRINUSE, bound.port),
                HasSubstr("held by base_test (pid " + std::to_string(::getpid()) + ", this process itself)"));
  }
}

TEST(PortOwner, NamesAnotherProcess) {
  Bound bound(AF_INET);
  ASSERT_TRUE(bound.ok && ::listen(bound.fd, 1) == 0);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_NAME, "port holder");
    (void)!::write(ready[1], "x", 1);
    ::pause();
    ::_exit(0);
  }
  char byte = 0;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  ::close(bound.fd);  // the child alone holds it now
  const std::string text = bind_failure_text(EADDRINUSE, bound.port);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
  bound.fd = -1;
  EXPECT_EQ(text, std::string(std::strerror(EADDRINUSE)) + ", held by port holder (pid " + std::to_string(child) +
                      "); choose another port or stop the program that holds it");
}

TEST(PortOwner, SaysWhatItCannotSee) {
  const Bound bound(AF_INET);  // bound, and not listening
  ASSERT_TRUE(bound.ok);
  EXPECT_THAT(bind_failure_text(EADDRINUSE, bound.port), HasSubstr("does not listen"));
}

TEST(PortOwner, AnAddressOfAnotherMachineIsNotAMatterOfPorts) {
  sockaddr_in elsewhere{};
  elsewhere.sin_family = AF_INET;
  ASSERT_EQ(::inet_pton(AF_INET, "203.0.113.7", &elsewhere.sin_addr), 1);  // RFC 5737: no machine has it
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&elsewhere), sizeof(elsewhere)), -1);
  const std::string text = bind_failure_text(errno, 30000, "--port");
  ::close(fd);
  EXPECT_THAT(text, HasSubstr("no interface of this machine has that address"));
  EXPECT_THAT(text, Not(HasSubstr("--port")));
}

TEST(PortOwner, EachFailureHasItsOwnRemedy) {
  EXPECT_THAT(bind_failure_text(EADDRINUSE, 0, "--port"), HasSubstr("no free port"));
  EXPECT_THAT(bind_failure_text(EACCES, 80, "--port"), HasSubstr("choose a higher --port"));
  EXPECT_THAT(bind_failure_text(EAFNOSUPPORT, 80, "--port"), HasSubstr("IPv6 may be switched off"));
  EXPECT_THAT(bind_failure_text(EINVAL, 80, "--port"), HasSubstr("fe80::1%eth0"));
  EXPECT_EQ(bind_failure_text(EMFILE, 80, "--port"), std::strerror(EMFILE));
}

}  // namespace
}  // namespace baton
