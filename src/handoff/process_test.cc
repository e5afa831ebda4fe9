// Two real processes over shm and tcp: the other one is this program again. It reads commands from its standard input
// and prints what happened, so that the parent can kill it at any moment.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <iterator>
#include <sstream>
#include <thread>

#include "handoff/rig_test.h"

namespace baton::handoff {
namespace {

using namespace std::chrono_literals;

constexpr const char* kChild = "BATON_HANDOFF_TEST_CHILD";  // "prefill tcp"

PairSpec spec_of_processes() {
  return {.name = "",
          .geometry = gqa_geometry(),
          .prefill = {{.tp = 2}, 8, 96},
          .decode = {{.tp = 4, .dp = 2}, 4, 192},
          .fanout = layout::Fanout::kLocal,
          .policy = layout::WriterPolicy::kBalanced};
}

PrefillHandoffOptions prefill_options() {
  PrefillHandoffOptions options;
  options.heartbeat = 600ms;
  options.post_bytes_max = 2048;  // many posts, so that a kill finds some in flight
  return options;
}
DecodeHandoffOptions decode_options() {
  DecodeHandoffOptions options;
  options.heartbeat = 600ms;
  return options;
}

// ---- the child ----

// Lines from standard input without blocking; nullopt when it is closed.
class Commands {
 public:
  std::optional<std::vector<std::string>> take() {
    pollfd fd{STDIN_FILENO, POLLIN, 0};
    std::vector<std::string> lines;
    if (::poll(&fd, 1, 1) == 1) {
      char buffer[4096];
      const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof(buffer));
      if (n <= 0) return std::nullopt;
      text_.append(buffer, static_cast<size_t>(n));
    }
    for (size_t end; (end = text_.find('\n')) != std::string::npos; text_.erase(0, end + 1))
      lines.push_back(text_.substr(0, end));
    return lines;
  }

 private:
  std::string text_;
};

// "begin ATTEMPT TOKENS" -> "ended ATTEMPT OUTCOME"
void run_prefill_child(const std::string& transport) {
  TestPrefill prefill(spec_of_processes(), transport_of(transport), prefill_options());
  prefill.chunk = 8;
  std::cout << "port " << prefill.port() << std::endl;
  Commands commands;
  std::map<AttemptId, PrefillEnded> told;
  while (const auto lines = commands.take()) {
    for (const std::string& line : *lines) {
      uint64_t attempt = 0;
      int64_t tokens = 0;
      std::string word;
      std::istringstream(line) >> word >> attempt >> tokens;
      prefill.begin(AttemptId(attempt), 0, tokens);
    }
    prefill.pump();
    for (const auto& [attempt, ended] : prefill.ended()) {
      if (!told.emplace(attempt, ended).second) continue;
      std::cout << "ended " << attempt.value() << ' ' << attempt_outcome_name(ended.outcome)
                << (ended.quiet ? " quiet" : " busy") << std::endl;
    }
  }
}

// "receive ATTEMPT TOKENS PORT" -> "over ATTEMPT OUTCOME DIFFERENCE"
void run_decode_child(const std::string& transport) {
  TestDecode decode(spec_of_processes(), transport_of(transport), decode_options());
  std::cout << "port 0" << std::endl;
  Commands commands;
  std::map<AttemptId, bool> told;
  while (const auto lines = commands.take()) {
    for (const std::string& line : *lines) {
      uint64_t attempt = 0;
      int64_t tokens = 0;
      uint16_t port = 0;
      std::string word;
      std::istringstream(line) >> word >> attempt >> tokens >> port;
      BATON_CHECK(decode.request(AttemptId(attempt), "127.0.0.1", port, static_cast<int>(attempt % 2), tokens),
                  "no pages");
    }
    decode.pump();
    for (const auto& [attempt, outcome] : decode.outcomes()) {
      if (!decode.over(attempt) || !told.emplace(attempt, true).second) continue;
      std::cout << "over " << attempt.value() << ' ' << (outcome.committed ? "committed" : "ended") << ' '
                << outcome.difference << std::endl;
    }
  }
}

TEST(HandoffChild, Run) {
  const char* what = std::getenv(kChild);
  if (what == nullptr) GTEST_SKIP() << "only as the child of another test";
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string role, transport;
  std::istringstream(what) >> role >> transport;
  role == "prefill" ? run_prefill_child(transport) : run_decode_child(transport);
}

// ---- the parent ----

class Child {
 public:
  Child(const std::string& role, const std::string& transport) {
    int in[2], out[2];
    BATON_CHECK(::pipe2(in, O_CLOEXEC) == 0 && ::pipe2(out, O_CLOEXEC) == 0, "pipe");
    const std::string what = std::string(kChild) + "=" + role + " " + transport;
    std::vector<char*> environment;
    for (char** each = environ; *each != nullptr; ++each) environment.push_back(*each);
    environment.push_back(const_cast<char*>(what.c_str()));
    environment.push_back(nullptr);
    char self[] = "/proc/self/exe", filter[] = "--gtest_filter=HandoffChild.Run";
    char* arguments[] = {self, filter, nullptr};
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      ::execve(self, arguments, environment.data());
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    write_ = in[1];
    read_ = out[0];
    port = static_cast<uint16_t>(std::stoi(expect("port").at(1)));
  }
  ~Child() {
    ::close(write_);
    ::close(read_);
    if (pid_ > 0) kill_hard();
  }
  void say(const std::string& line) {
    ASSERT_EQ(::write(write_, (line + "\n").data(), line.size() + 1), static_cast<ssize_t>(line.size() + 1));
  }
  void kill_hard() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  void signal(int number) { ::kill(pid_, number); }
  // Every line there is now, in words.
  std::vector<std::vector<std::string>> lines(Duration timeout = 0ms) {
    pollfd fd{read_, POLLIN, 0};
    if (::poll(&fd, 1, static_cast<int>(timeout / 1ms)) == 1) {
      char buffer[4096];
      const ssize_t n = ::read(read_, buffer, sizeof(buffer));
      if (n > 0) text_.append(buffer, static_cast<size_t>(n));
    }
    std::vector<std::vector<std::string>> found;
    for (size_t end; (end = text_.find('\n')) != std::string::npos; text_.erase(0, end + 1)) {
      std::istringstream words(text_.substr(0, end));
      found.emplace_back(std::istream_iterator<std::string>(words), std::istream_iterator<std::string>());
      found.back().emplace_back();
    }
    return found;
  }
  uint16_t port = 0;

 private:
  std::vector<std::string> expect(const std::string& word) {
    const TimePoint until = SteadyClock().now() + 20s;
    while (SteadyClock().now() < until) {
      for (const auto& line : lines(100ms)) {
        if (line[0] == word) return line;
      }
    }
    BATON_CHECK(false, "the child did not say {}", word);
  }
  pid_t pid_ = -1;
  int write_ = -1, read_ = -1;
  std::string text_;
};

class HandoffProcesses : public testing::TestWithParam<std::string> {
 protected:
  template <typename Engine, typename Done>
  static bool pump_until(Engine& engine, Done done, Duration timeout = 20s) {
    const TimePoint until = SteadyClock().now() + timeout;
    while (SteadyClock().now() < until) {
      engine.pump();
      if (done()) return true;
      std::this_thread::sleep_for(500us);
    }
    return false;
  }
  static std::string order(const char* word, uint64_t attempt, int64_t tokens, int port = 0) {
    return fmt::format("{} {} {} {}", word, attempt, tokens, port);
  }
};

TEST_P(HandoffProcesses, KvCrossesToThisProcess) {
  Child child("prefill", GetParam());
  TestDecode decode(spec_of_processes(), transport_of(GetParam()), decode_options());
  for (uint64_t i = 1; i <= 12; ++i) {
    ASSERT_TRUE(decode.request(AttemptId(i), "127.0.0.1", child.port, static_cast<int>(i % 2),
                               10 + static_cast<int64_t>(9 * i % 90)));
    child.say(order("begin", i, 10 + static_cast<int64_t>(9 * i % 90)));
  }
  ASSERT_TRUE(pump_until(decode, [&] { return decode.all_over(); }));
  for (const auto& [attempt, outcome] : decode.outcomes()) {
    ASSERT_TRUE(outcome.committed) << outcome.ended->message;
    EXPECT_EQ(outcome.difference, "");
  }
  EXPECT_TRUE(decode.all_free());
}

// Whatever moment the kill hits: every attempt ends, every page becomes free, no freed page changes, and a new process
// serves again.
TEST_P(HandoffProcesses, PrefillIsKilled) {
  TestDecode decode(spec_of_processes(), transport_of(GetParam()), decode_options());
  uint64_t next = 1;
  int committed = 0, ended = 0;
  for (int round = 0; round < 5; ++round) {
    Child child("prefill", GetParam());
    for (int i = 0; i < 6; ++i, ++next) {
      ASSERT_TRUE(decode.request(AttemptId(next), "127.0.0.1", child.port, static_cast<int>(next % 2), 80));
      child.say(order("begin", next, 80));
    }
    pump_until(
        decode, [] { return false; }, std::chrono::milliseconds(3 + 6 * round));
    child.kill_hard();
    const TimePoint killed = SteadyClock().now();
    ASSERT_TRUE(pump_until(decode, [&] { return decode.all_over() && decode.all_free(); })) << "pages stay quarantined";
    EXPECT_LT(SteadyClock().now() - killed, 5s) << "failure is known soon";
  }
  for (const auto& [attempt, outcome] : decode.outcomes()) {
    EXPECT_EQ(outcome.difference, "");
    (outcome.committed ? committed : ended)++;
  }
  EXPECT_GT(ended, 0) << "no kill came in time: shorten the pauses";
  EXPECT_EQ(decode.touched_free_pages(), "");
  EXPECT_EQ(decode.stats().attempts_quarantined, 0u);
  Child child("prefill", GetParam());
  ASSERT_TRUE(decode.request(AttemptId(next), "127.0.0.1", child.port, 0, 80));
  child.say(order("begin", next, 80));
  ASSERT_TRUE(pump_until(decode, [&] { return decode.all_over(); }));
  EXPECT_TRUE(decode.outcome(AttemptId(next)).committed);
}

TEST_P(HandoffProcesses, DecodeIsKilled) {
  TestPrefill prefill(spec_of_processes(), transport_of(GetParam()), prefill_options());
  prefill.chunk = 8;
  uint64_t next = 1;
  for (int round = 0; round < 5; ++round) {
    Child child("decode", GetParam());
    for (int i = 0; i < 6; ++i, ++next) {
      prefill.begin(AttemptId(next), 0, 80, 3s);
      child.say(order("receive", next, 80, prefill.port()));
    }
    pump_until(
        prefill, [] { return false; }, std::chrono::milliseconds(2 + 5 * round));
    child.kill_hard();
    ASSERT_TRUE(pump_until(prefill, [&] { return prefill.idle() && prefill.all_free(); })) << "sources stay pinned";
  }
  size_t failed = 0;
  for (const auto& [attempt, ended] : prefill.ended()) failed += ended.outcome == AttemptOutcome::kFailed ? 1 : 0;
  EXPECT_GT(failed, 0u) << "no kill came in time: shorten the pauses";
  Child child("decode", GetParam());
  prefill.begin(AttemptId(next), 0, 80);
  child.say(order("receive", next, 80, prefill.port()));
  ASSERT_TRUE(pump_until(prefill, [&] { return prefill.idle(); }));
  EXPECT_EQ(prefill.ended().at(AttemptId(next)).outcome, AttemptOutcome::kCommitted)
      << prefill.ended().at(AttemptId(next)).message;
}

// A stopped writer is silent, not gone: attempts fail by heartbeat, and nothing it writes after it wakes touches a page
// that was freed.
TEST_P(HandoffProcesses, PrefillIsStoppedAndWakes) {
  TestDecode decode(spec_of_processes(), transport_of(GetParam()), decode_options());
  Child child("prefill", GetParam());
  for (uint64_t i = 1; i <= 6; ++i) {
    ASSERT_TRUE(decode.request(AttemptId(i), "127.0.0.1", child.port, static_cast<int>(i % 2), 90));
    child.say(order("begin", i, 90));
  }
  pump_until(decode, [&] { return decode.stats().peers == 1; });
  pump_until(
      decode, [] { return false; }, 4ms);
  child.signal(SIGSTOP);
  ASSERT_TRUE(pump_until(decode, [&] { return decode.all_over(); }));
  child.signal(SIGCONT);
  ASSERT_TRUE(pump_until(decode, [&] { return decode.all_free(); })) << "evidence comes once the writer runs again";
  EXPECT_EQ(decode.touched_free_pages(), "");
  ASSERT_TRUE(decode.request(AttemptId(7), "127.0.0.1", child.port, 0, 90));
  child.say(order("begin", 7, 90));
  ASSERT_TRUE(pump_until(decode, [&] { return decode.all_over(); }));
  EXPECT_TRUE(decode.outcome(AttemptId(7)).committed) << decode.outcome(AttemptId(7)).ended->message;
  EXPECT_EQ(decode.touched_free_pages(), "");
}

INSTANTIATE_TEST_SUITE_P(Transports, HandoffProcesses, testing::Values("shm", "tcp"));

}  // namespace
}  // namespace baton::handoff
