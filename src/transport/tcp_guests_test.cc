#include "transport/tcp_guests.h"

#include <gtest/gtest.h>

#include <set>

#include "base/random.h"

namespace baton::transport::tcp {
namespace {

using namespace std::chrono_literals;

constexpr GuestLimits kSmall{.strangers = 4, .proven = 3, .of_a_writer = 2};
constexpr Network kHere{1, false}, kThere{2, false};
constexpr Incarnation kA{1, 1}, kB{2, 2}, kC{3, 3};
constexpr std::optional<int> kNobody;

struct Door {
  std::set<Incarnation> expected;
  Guests guests{kSmall, [this](const Incarnation& writer) { return expected.contains(writer); }};
  TimePoint now{};

  std::optional<int> arrive(int fd, const Network& from = kHere) {
    now += 1ms;
    return guests.arrive(fd, from, now);
  }
  void prove(int fd, const Incarnation& writer) {
    EXPECT_EQ(arrive(fd), kNobody);
    EXPECT_EQ(guests.greet(fd, writer), kNobody);
    guests.use(fd, now, false);
  }
};

TEST(TcpGuests, TheOldestStrangerMakesRoom) {
  Door door;
  for (int fd = 1; fd <= 4; ++fd) EXPECT_EQ(door.arrive(fd), kNobody);
  EXPECT_EQ(door.arrive(5), 1);
  door.guests.leave(1);
  EXPECT_EQ(door.arrive(6), 2);
}

TEST(TcpGuests, TheNetworkWithTheMostStrangersMakesRoom) {
  Door door;
  EXPECT_EQ(door.arrive(1, kThere), kNobody);
  for (int fd = 2; fd <= 4; ++fd) EXPECT_EQ(door.arrive(fd), kNobody);
  EXPECT_EQ(door.arrive(5), 2) << "1 is older and alone";
}

TEST(TcpGuests, AWriterWithAWindowIsNoStranger) {
  Door door;
  door.expected = {kA};
  EXPECT_EQ(door.arrive(1), kNobody);
  EXPECT_EQ(door.guests.greet(1, kA), kNobody);
  for (int fd = 2; fd <= 4; ++fd) EXPECT_EQ(door.arrive(fd), kNobody);
  EXPECT_EQ(door.arrive(5), 2);
  door.expected.clear();
  door.guests.leave(2);
  EXPECT_EQ(door.arrive(6), 1) << "its window is closed and it has shown nothing";
}

TEST(TcpGuests, ProvenGuestsAreNotCountedAmongTheStrangers) {
  Door door;
  door.prove(1, kA);
  EXPECT_EQ(door.guests.prove(1), kNobody);
  for (int fd = 2; fd <= 5; ++fd) EXPECT_EQ(door.arrive(fd), kNobody);
  EXPECT_EQ(door.arrive(6), 2);
}

TEST(TcpGuests, AWriterHasFewConnections) {
  Door door;
  door.prove(1, kA);
  EXPECT_EQ(door.guests.prove(1), kNobody);
  door.prove(2, kA);
  EXPECT_EQ(door.arrive(3), kNobody);
  EXPECT_EQ(door.guests.greet(3, kA), 2) << "the one that has shown nothing, not the newcomer and not the proven one";
  door.guests.leave(2);
  EXPECT_EQ(door.guests.prove(3), kNobody);
  EXPECT_EQ(door.arrive(4), kNobody);
  EXPECT_EQ(door.guests.greet(4, kA), 1) << "all have proven themselves: the one that was longest unused";
  door.guests.leave(1);
  door.guests.use(3, door.now, true);
  EXPECT_EQ(door.guests.prove(4), kNobody);
  door.guests.use(4, door.now, true);
  EXPECT_EQ(door.arrive(5), kNobody);
  EXPECT_EQ(door.guests.greet(5, kA), 5) << "all are busy";
}

TEST(TcpGuests, TheLongestUnusedWriterMakesRoomForOneWhoProvesItself) {
  Door door;
  door.expected = {kB};
  for (const auto& [fd, writer] : {std::pair{1, kB}, {2, kA}, {3, kC}}) {
    door.prove(fd, writer);
    EXPECT_EQ(door.guests.prove(fd), kNobody);
  }
  door.prove(4, {4, 4});
  EXPECT_EQ(door.guests.prove(4), 2) << "1 is older and has a window";
  door.guests.leave(2);
  door.guests.use(3, door.now, true);
  door.guests.use(4, door.now, true);
  door.prove(5, {5, 5});
  EXPECT_EQ(door.guests.prove(5), 5) << "nobody can go";
}

TEST(TcpGuests, PatienceIsCountedFromTheArrivalAndInTheMiddleFromTheLastByte) {
  const Guests::Patience patience{.greeting = 10ms, .proof = 20ms, .stall = 100ms};
  Door door;
  door.expected = {kB};
  for (int fd = 1; fd <= 4; ++fd) EXPECT_EQ(door.guests.arrive(fd, kHere, door.now), kNobody);
  EXPECT_EQ(door.guests.greet(2, kA), kNobody);
  EXPECT_EQ(door.guests.greet(3, kB), kNobody);
  EXPECT_EQ(door.guests.greet(4, kC), kNobody);
  EXPECT_EQ(door.guests.prove(4), kNobody);
  const auto overdue = [&](Duration after) { return door.guests.overdue(door.now + after, patience); };
  door.guests.use(1, door.now + 9ms, false);  // a byte now and then buys no time
  EXPECT_EQ(overdue(9ms), std::vector<int>());
  EXPECT_EQ(overdue(10ms), std::vector<int>({1}));
  EXPECT_EQ(overdue(20ms), std::vector<int>({1, 2}));
  EXPECT_EQ(overdue(1h), std::vector<int>({1, 2})) << "a window is open for 3, and 4 may be idle";
  door.guests.use(4, door.now + 50ms, true);
  EXPECT_EQ(overdue(149ms), std::vector<int>({1, 2}));
  EXPECT_EQ(overdue(150ms), std::vector<int>({1, 2, 4}));
  EXPECT_TRUE(door.guests.watched());
}

// Whatever happens the limits hold, somebody leaves only when one is passed, and a proven guest that is busy stays.
TEST(TcpGuests, TheLimitsHold) {
  Random random(3);
  Door door;
  struct Plain {
    bool greeted = false, proven = false, busy = false;
    Incarnation writer;
  };
  std::map<int, Plain> here;
  const auto gone = [&](std::optional<int> fd, int newcomer) {
    if (!fd) return;
    ASSERT_TRUE(here.contains(*fd));
    EXPECT_FALSE(here.at(*fd).proven && here.at(*fd).busy && *fd != newcomer);
    door.guests.leave(*fd);
    here.erase(*fd);
  };
  for (int step = 0; step < 20'000; ++step) {
    door.now += 1ms;
    if (random.below(50) == 0) door.expected = {{random.below(6), 0}};
    if (here.empty() || random.below(3) == 0) {
      here[step] = {};
      gone(door.guests.arrive(step, {random.below(3), false}, door.now), step);
    } else {
      auto it = here.begin();
      std::advance(it, static_cast<ptrdiff_t>(random.below(here.size())));
      const int fd = it->first;
      Plain& guest = it->second;
      if (!guest.greeted) {
        guest = {true, false, false, {random.below(6), 0}};
        gone(door.guests.greet(fd, guest.writer), fd);
      } else if (!guest.proven) {
        guest.proven = true;
        gone(door.guests.prove(fd), fd);
      } else if (random.below(4) == 0) {
        gone(fd, fd);
      } else {
        guest.busy = random.below(2) == 0;
        door.guests.use(fd, door.now, guest.busy);
      }
    }
    size_t strangers = 0, proven = 0;
    std::map<Incarnation, size_t> writers;
    for (const auto& [fd, guest] : here) {
      ++(guest.proven ? proven : strangers);
      if (guest.greeted) ++writers[guest.writer];
    }
    ASSERT_LE(strangers, kSmall.strangers);
    ASSERT_LE(proven, kSmall.proven);
    for (const auto& [writer, n] : writers) ASSERT_LE(n, kSmall.of_a_writer);
    ASSERT_EQ(door.guests.size(), here.size());
  }
}

}  // namespace
}  // namespace baton::transport::tcp
