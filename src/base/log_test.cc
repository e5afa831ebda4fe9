// Log lines and last words, with readers that do not read.
#include "base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/line_writer.h"

namespace baton {
namespace {

using ::testing::HasSubstr;
using namespace std::chrono_literals;

struct Ends {
  explicit Ends(bool socket = false) {
    std::array<int, 2> fds{};
    EXPECT_EQ(socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, fds.data()) : pipe(fds.data()), 0);
    reader = fds[0];
    writer = fds[1];
  }
  ~Ends() {
    close_reader();
    close(writer);
  }
  void close_reader() {
    if (reader >= 0) close(reader);
    reader = -1;
  }
  // What comes until `quiet` passes without anything.
  std::string read_all(std::chrono::milliseconds quiet = 300ms) const {
    std::string text;
    std::array<char, 4096> bytes;
    pollfd ready{reader, POLLIN, 0};
    while (poll(&ready, 1, static_cast<int>(quiet.count())) > 0) {
      const ssize_t n = read(reader, bytes.data(), bytes.size());
      if (n <= 0) break;
      text.append(bytes.data(), static_cast<size_t>(n));
    }
    return text;
  }
  int reader, writer;
};

Duration time_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::steady_clock::now() - begin;
}

TEST(LineWriter, WritesLinesInOrder) {
  Ends ends;
  LineWriter lines(ends.writer);
  for (int i = 0; i < 100; ++i) lines.put(fmt::format("line {}\n", i));
  EXPECT_TRUE(lines.flush(10s));
  std::istringstream text(ends.read_all());
  int i = 0;
  for (std::string line; std::getline(text, line); ++i) EXPECT_EQ(line, fmt::format("line {}", i));
  EXPECT_EQ(i, 100);
  EXPECT_EQ(lines.dropped(), 0U);
}

// Every line was written, in order, or is counted in a line where it is missing.
TEST(LineWriter, AReaderThatDoesNotReadHoldsNobodyUp) {
  for (const bool socket : {false, true}) {
    Ends ends(socket);
    LineWriter lines(ends.writer, 1u << 20);  // more than a pipe or a socket takes
    constexpr int kLines = 40'000;
    const std::string filler(60, 'x');
    EXPECT_LT(time_of([&] {
                for (int i = 0; i < kLines; ++i) lines.put(fmt::format("line {} {}\n", i, filler));
              }),
              5s);
    EXPECT_GT(lines.dropped(), 0U);
    EXPECT_FALSE(lines.flush(1ms));
    std::string read = ends.read_all();
    lines.put("after\n");
    read += ends.read_all();
    EXPECT_TRUE(read.ends_with("after\n")) << read.substr(read.size() - 200);
    std::istringstream text(read);
    int expected = 0;
    uint64_t told = 0;
    for (std::string line; std::getline(text, line);) {
      int number = 0;
      uint64_t missing = 0;
      if (std::sscanf(line.c_str(), "[%lu lines are missing", &missing) == 1) {
        told += missing;
        expected += static_cast<int>(missing);
      } else if (std::sscanf(line.c_str(), "line %d ", &number) == 1) {
        ASSERT_EQ(number, expected) << line;
        ++expected;
      }
    }
    EXPECT_EQ(expected, kLines);
    EXPECT_EQ(told, lines.dropped());
  }
}

TEST(LineWriter, EndsThoughNobodyReads) {
  Ends ends;
  EXPECT_LT(time_of([&] {
              LineWriter lines(ends.writer);
              for (int i = 0; i < 5000; ++i) lines.put(std::string(100, 'x') + "\n");
            }),
            5s);
}

TEST(LineWriter, AReaderThatIsGoneIsNoError) {
  Ends ends;
  LineWriter lines(ends.writer);
  ends.close_reader();
  for (int i = 0; i < 10; ++i) lines.put("nobody\n");
  EXPECT_TRUE(lines.flush(10s));
  EXPECT_EQ(lines.dropped(), 10U);
}

// Other processes have the same pipe: their writes must go on waiting as they chose to.
TEST(LineWriter, TheDescriptorsFlagsAreLeftAlone) {
  Ends ends;
  LineWriter lines(ends.writer);
  EXPECT_EQ(fcntl(ends.writer, F_GETFL) & O_NONBLOCK, 0);
}

// A child whose standard error is the pipe; the status it ended with, or nothing within ten seconds.
std::optional<int> status_of_child(const Ends& ends, const std::function<void()>& work) {
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(ends.writer, STDERR_FILENO);
    signal(SIGABRT, SIG_DFL);
    work();
    _exit(0);
  }
  int status = 0;
  for (int i = 0; i < 1000; ++i) {
    if (waitpid(pid, &status, WNOHANG) == pid) return status;
    std::this_thread::sleep_for(10ms);
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return std::nullopt;
}

void fill(const Ends& ends) {
  fcntl(ends.writer, F_SETFL, O_NONBLOCK);
  const std::string bytes(4096, '.');
  while (write(ends.writer, bytes.data(), bytes.size()) > 0) continue;
  fcntl(ends.writer, F_SETFL, 0);
}

TEST(Log, LastWordsComeAfterAllLines) {
  for (const bool thrown : {false, true}) {
    Ends ends;
    const auto status = status_of_child(ends, [&] {
      log_init(LogLevel::kInfo, "child");
      for (int i = 0; i < 50; ++i) log_info("line {}", i);
      std::thread([thrown] {
        if (thrown) throw std::runtime_error("lost");
        BATON_CHECK(1 + 1 == 3, "sum {}", 2);
      }).join();
    });
    ASSERT_TRUE(status.has_value());
    EXPECT_TRUE(WIFSIGNALED(*status) && WTERMSIG(*status) == SIGABRT);
    const std::string text = ends.read_all();
    EXPECT_THAT(text, HasSubstr("line 49\n"));
    EXPECT_TRUE(text.ends_with(thrown ? "an exception was not caught: lost\n" : "check failed: 1 + 1 == 3: sum 2\n"))
        << text;
  }
}

TEST(Log, NothingWaitsForAFullPipe) {
  for (const bool crash : {false, true}) {
    Ends ends;
    fill(ends);
    const auto status = status_of_child(ends, [&] {
      log_init(LogLevel::kInfo, "child");
      for (int i = 0; i < 50'000; ++i) log_info("line {}", i);
      if (log_lines_dropped() == 0) _exit(7);
      BATON_CHECK(!crash, "words that nobody reads");
      exit(0);
    });
    ASSERT_TRUE(status.has_value()) << "it waits";
    if (crash) {
      EXPECT_TRUE(WIFSIGNALED(*status) && WTERMSIG(*status) == SIGABRT) << *status;
    } else {
      EXPECT_EQ(*status, 0);
    }
  }
}

}  // namespace
}  // namespace baton
