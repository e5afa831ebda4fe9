// An owner of the tcp transport facing writers that do not keep to the protocol.
#include <gtest/gtest.h>

#include "base/random.h"
#include "transport/tcp_owner_test.h"

namespace baton::transport::tcp {
namespace {

TEST_F(TcpOwner, TakesWhatIsInTheWindow) {
  start();
  const UniqueFd fd = greet();
  say(fd, write(1, token(1), {{region_.id, 2, 4096, 100, 200}}) + std::string(200, 'x'));
  EXPECT_EQ(result(fd).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(all_equal(region_.memory.host().subspan(4096, 100), 'x'));
  EXPECT_TRUE(all_equal(region_.memory.host().subspan(4196, 100), 0));
  EXPECT_TRUE(all_equal(region_.memory.host().subspan(4296, 100), 'x'));
}

TEST_F(TcpOwner, ChecksEveryBlockOfARunBeforeItReadsPayload) {
  start();
  const UniqueFd fd = greet();
  const RegionId r = region_.id;
  constexpr uint64_t kMax = ~uint64_t{0};
  struct Case {
    const char* name;
    WindowToken token;
    BlockRun run;
  };
  const Case cases[] = {
      {"second block leaves the window", token(1), {r, 2, 4096, 100, 8192}},
      {"stride wraps to before the window", token(1), {r, 2, 4096, 100, kMax - 99}},
      {"stride wraps out of memory", token(1), {r, 2, 4096, 100, kMax - 8191}},
      {"offset near 2^64", token(1), {r, 1, kMax - 10, 100, 0}},
      {"region 0", token(1), {RegionId(0), 1, 4096, 100, 0}},
      {"no such region", token(1), {RegionId(2), 1, 4096, 100, 0}},
      {"wrong secret", token(1, 78), {r, 1, 4096, 100, 0}},
      {"no such attempt", token(2), {r, 1, 4096, 100, 0}},
  };
  uint64_t post = 0;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    // The refusal comes before any payload was sent.
    say(fd, write(++post, c.token, {c.run}));
    const ResultFrame answer = result(fd);
    EXPECT_EQ(answer.post, post);
    EXPECT_EQ(answer.outcome, TransferOutcome::kRejected);
    EXPECT_EQ(answer.bytes, 0u);
    say(fd, std::string(c.run.count * c.run.length, 'y'));
  }
  EXPECT_TRUE(all_equal(region_.memory.host(), 0));
  say(fd, write(++post, token(1), {{r, 1, 4096, 1, 0}}) + "z");
  EXPECT_EQ(result(fd).outcome, TransferOutcome::kDone) << "the payload of refused posts was dropped in step";
}

TEST_F(TcpOwner, DropsTheRestWhenTheWindowClosesInTheMiddleOfAPayload) {
  start();
  for (const size_t first_part : {size_t{0}, size_t{10}, size_t{5000}}) {
    SCOPED_TRACE(first_part);
    const WindowToken t = token(100 + first_part);
    const WindowRange range{region_.id, 4096, 8192};
    ASSERT_TRUE(owner_->open_window(t, std::span(&range, 1)));
    fill(region_.memory.host(), 0);
    const UniqueFd fd = greet();
    say(fd, write(1, t, {{region_.id, 1, 4096, 8000, 0}}) + std::string(first_part, 'x'));
    const TimePoint end = in(5s);
    while (first_part > 0 && !written(region_.memory.host()[4096 + first_part - 1]) && SteadyClock().now() < end)
      std::this_thread::sleep_for(1ms);
    EXPECT_TRUE(owner_->close_window(t));
    EXPECT_TRUE(owner_->window_quiet(t));
    fill(region_.memory.host(), 0xaa);
    say(fd, std::string(8000 - first_part, 'y'));
    const ResultFrame answer = result(fd);
    EXPECT_EQ(answer.outcome, TransferOutcome::kRejected);
    EXPECT_EQ(answer.bytes, first_part);
    EXPECT_TRUE(all_equal(region_.memory.host(), 0xaa));
    say(fd, write(2, token(1), {{region_.id, 1, 4096, 1, 0}}) + "z");
    EXPECT_EQ(result(fd).outcome, TransferOutcome::kDone);
  }
}

TEST_F(TcpOwner, AnswersAPostOfManyFramesOnce) {
  start();
  const UniqueFd fd = greet();
  // Refused in its second frame: the third is dropped, and a new post may follow without a last frame of the old one.
  say(fd, write(1, token(1), {{region_.id, 1, 4096, 10, 0}}, true, false) + std::string(10, 'a'));
  say(fd, write(1, token(1), {{region_.id, 1, 0, 10, 0}}, false, false) + std::string(10, 'b'));
  say(fd, write(1, token(1), {{region_.id, 1, 4106, 10, 0}}, false, false) + std::string(10, 'c'));
  say(fd, write(2, token(1), {{region_.id, 1, 4200, 10, 0}}, true, false) + std::string(10, 'd'));
  say(fd, encode_cancel(2));
  ResultFrame answer = result(fd);
  EXPECT_EQ(answer.post, 1u);
  EXPECT_EQ(answer.outcome, TransferOutcome::kRejected);
  EXPECT_EQ(answer.bytes, 10u);
  answer = result(fd);
  EXPECT_EQ(answer.post, 2u);
  EXPECT_EQ(answer.outcome, TransferOutcome::kCancelled);
  EXPECT_EQ(answer.bytes, 10u);
  EXPECT_TRUE(all_equal(region_.memory.host().subspan(4106, 10), 0));
  EXPECT_TRUE(all_equal(region_.memory.host().first(4096), 0));
}

TEST_F(TcpOwner, RefusesAnotherIncarnation) {
  start();
  const UniqueFd fd = dial();
  say(fd, encode(WriterHello{{1, 1}, {11, 23}}));
  const std::string head = hear(fd, kHeaderBytes);
  const auto welcome = decode_welcome(as_span(hear(fd, decode_header(as_span(head))->body_bytes))).value();
  EXPECT_FALSE(welcome.accepted);
  EXPECT_NE(welcome.detail.find("stale"), std::string::npos);
  EXPECT_EQ(welcome.detail.find(Incarnation{11, 22}.to_string()), std::string::npos)
      << "our incarnation is for those who know it";
  say(fd, write(1, token(1), {{region_.id, 1, 4096, 100, 0}}) + std::string(100, 'x'));
  EXPECT_TRUE(closed(fd));
  EXPECT_TRUE(all_equal(region_.memory.host(), 0));
}

TEST_F(TcpOwner, ClosesOnFramesOutOfTurn) {
  start();
  const std::string greeting = hello();
  const std::string good = write(1, token(1), {{region_.id, 1, 4096, 10, 0}}, true, false) + std::string(10, 'a');
  struct Case {
    const char* name;
    std::string bytes;
  };
  const Case cases[] = {
      {"write before hello", good},
      {"two hellos", greeting + greeting},
      {"a welcome", greeting + encode(Welcome{true, ""})},
      {"a result", greeting + encode(ResultFrame{1, 0, TransferOutcome::kDone, ""})},
      {"not the first frame", greeting + write(1, token(1), {{region_.id, 1, 4096, 1, 0}}, false, true) + "a"},
      {"a post inside a post", greeting + good + write(2, token(1), {{region_.id, 1, 4096, 1, 0}}) + "a"},
      {"goes on as another post",
       greeting + good + write(2, token(1), {{region_.id, 1, 4096, 1, 0}}, false, true) + "a"},
      {"cancel of nothing", greeting + encode_cancel(5)},
      {"http", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
  };
  for (const Case& c : cases) {
    const UniqueFd fd = dial();
    say(fd, c.bytes);
    EXPECT_TRUE(closed(fd)) << c.name;
  }
}

TEST_F(TcpOwner, ClosesConnectionsThatNeverSayHello) {
  TransportOptions options;
  options.connect_timeout = 200ms;
  start(options);
  const UniqueFd silent = dial();
  const UniqueFd half = dial();
  say(half, hello().substr(0, 20));
  const UniqueFd good = greet();
  say(good, write(1, token(1), {{region_.id, 1, 4096, 1, 0}}) + "z");
  EXPECT_EQ(result(good).outcome, TransferOutcome::kDone);
  EXPECT_TRUE(closed(silent, 3s));
  EXPECT_TRUE(closed(half, 3s));
  std::this_thread::sleep_for(300ms);
  say(good, write(2, token(1), {{region_.id, 1, 4096, 1, 0}}) + "z");
  EXPECT_EQ(result(good).outcome, TransferOutcome::kDone);
}

// Random bytes, valid frames with random damage, and cut-off frames: no crash, no byte outside the window, no memory
// taken for a claimed size, and the next writer is served.
TEST_F(TcpOwner, HostileBytesChangeNothingOutsideTheWindow) {
  start();
  Random random(5);
  const std::string greeting = hello();
  const std::string frame =
      write(1, token(1), {{region_.id, 3, 4096, 1000, 2000}, {region_.id, 1, 12000, 200, 0}}) + std::string(3200, 'x');
  for (int round = 0; round < 300; ++round) {
    std::string bytes = random.below(8) == 0 ? std::string() : greeting;
    bytes += frame;
    const size_t begin = bytes.size() - frame.size();
    const uint64_t kind = random.below(4);
    if (kind == 0) {
      bytes.resize(begin);
      for (int i = 0; i < 400; ++i) bytes += static_cast<char>(random.next());
    } else if (kind == 1) {
      bytes.resize(begin + random.below(frame.size()));
    } else {
      for (uint64_t i = 0; i <= random.below(4); ++i)
        bytes[begin + random.below(150)] = static_cast<char>(random.next());
    }
    const UniqueFd fd = dial();
    say(fd, bytes);
    ::shutdown(fd.get(), SHUT_WR);
    EXPECT_TRUE(closed(fd)) << round;
  }
  EXPECT_TRUE(all_equal(region_.memory.host().first(4096), 0));
  EXPECT_TRUE(all_equal(region_.memory.host().subspan(4096 + 8192), 0));
  const UniqueFd fd = greet();
  say(fd, write(1, token(1), {{region_.id, 1, 4096, 1, 0}}) + "z");
  EXPECT_EQ(result(fd).outcome, TransferOutcome::kDone);
}

TEST_F(TcpOwner, SomeoneWhoReadsNoAnswersIsNotReadFurther) {
  start();
  const UniqueFd fd = greet();
  say(fd, write(1, token(1), {{region_.id, 1, 4096, 1, 0}}) + "z");
  ASSERT_EQ(result(fd).outcome, TransferOutcome::kDone);
  const int small = 4096;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
  // Refused posts without payload: answers are larger than what asks for them.
  std::string posts;
  for (uint64_t i = 1; i <= 2000; ++i) posts += write(i, token(9), {});
  size_t sent = 0;
  bool open = true;
  for (TimePoint idle_since = SteadyClock().now();
       open && sent < (size_t{64} << 20) && SteadyClock().now() - idle_since < 1s;) {
    const size_t at = sent % posts.size();
    const ssize_t n = ::send(fd.get(), posts.data() + at, posts.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
    open = n > 0 || errno == EAGAIN;
    if (n > 0) {
      sent += static_cast<size_t>(n);
      idle_since = SteadyClock().now();
    } else {
      std::this_thread::sleep_for(1ms);
    }
  }
  EXPECT_TRUE(open);
  EXPECT_LT(sent, size_t{64} << 20) << "the owner keeps reading and keeps the answers in memory";
  const UniqueFd other = greet();
  say(other, write(1, token(1), {{region_.id, 1, 4096, 1, 0}}) + "z");
  EXPECT_EQ(result(other).outcome, TransferOutcome::kDone);
}

}  // namespace
}  // namespace baton::transport::tcp
