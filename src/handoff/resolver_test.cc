#include "handoff/resolver.h"

#include <gtest/gtest.h>

#include <future>
#include <map>

#include "handoff/trust.h"

namespace baton::handoff {
namespace {

TEST(HostResolver, AddressesAreAnsweredAtOnceAndNamesThatWaitAreBounded) {
  std::promise<void> release;
  const std::shared_future<void> released(release.get_future());
  HostResolver resolver([] {},
                        [released](const std::string& host, uint16_t) -> Result<SocketAddress> {
                          released.wait();
                          return error(ErrorCode::kUnavailable, "no {}", host);
                        });
  for (int i = 0; i < 1000; ++i) resolver.ask(fmt::format("name{}.example", i), 1);
  resolver.ask("127.0.0.1", 2);
  size_t refused = 0, addresses = 0;
  for (const HostResolver::Answer& answer : resolver.answers()) {
    if (answer.address) {
      ++addresses;
      EXPECT_EQ(canonical_text(*answer.address), "127.0.0.1");
    } else {
      EXPECT_EQ(answer.address.error().code, ErrorCode::kResourceExhausted);
      ++refused;
    }
  }
  EXPECT_EQ(addresses, 1u);
  // 256 wait, and up to as many were taken together to be looked up.
  EXPECT_GE(refused, 1000u - 2 * 256u);
  EXPECT_LE(refused, 1000u - 256u);
  release.set_value();
  size_t rest = 0;
  while (rest + refused < 1000) rest += resolver.answers().size();
}

}  // namespace
}  // namespace baton::handoff
