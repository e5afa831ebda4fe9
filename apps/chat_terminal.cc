#include "chat_terminal.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "text/utf8.h"

namespace baton::apps {

bool TypedLines::is_terminal() { return isatty(STDIN_FILENO) != 0; }

bool TypedLines::take_line(std::string& line) {
  while (true) {
    const size_t end = bytes_.find('\n');
    const bool last = ended_ && !(bytes_.empty() && begun_.empty());  // without an end of its own
    if (end == std::string::npos && !last) return false;
    std::string one = bytes_.substr(0, end);
    bytes_.erase(0, end == std::string::npos ? bytes_.size() : end + 1);
    if (one.ends_with('\r')) one.pop_back();
    const bool goes_on = one.ends_with('\\') && end != std::string::npos;
    if (goes_on) one.back() = '\n';
    begun_ += one;
    if (goes_on) continue;
    line = std::exchange(begun_, {});
    return true;
  }
}

TypedLines::Event TypedLines::next() {
  while (true) {
    if (const int signal = signals_.wait(Duration::zero()); signal != 0) {
      begun_.clear();
      return {Kind::kSignal, "", signal};
    }
    std::string line;
    if (take_line(line)) return {Kind::kLine, std::move(line)};
    if (ended_) return {Kind::kEnd, ""};
    if (bytes_.size() + begun_.size() > kLineBytesMax) return {Kind::kTooLong, ""};
    pollfd ready{STDIN_FILENO, POLLIN, 0};
    if (poll(&ready, 1, 50) <= 0) continue;
    char some[64 << 10];
    const ssize_t n = read(STDIN_FILENO, some, sizeof(some));
    if (n > 0) bytes_.append(some, static_cast<size_t>(n));
    // Ctrl-D on a terminal; a terminal that is gone.
    ended_ = n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN);
  }
}

std::string printable(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const text::Utf8Unit unit = text::decode_utf8(text);
    const char32_t c = unit.code_point;
    if (c == '\n' || c == '\t' || (c >= 0x20 && c < 0x7F) || (c >= 0xA0 && unit.kind == text::Utf8Kind::kValid)) {
      shown += text.substr(0, unit.length);
    } else if (c < 0x20 || c == 0x7F) {
      shown += {'^', static_cast<char>(c ^ 0x40)};
    } else {
      shown += text::kReplacementCharacter;
    }
    text.remove_prefix(unit.length);
  }
  return shown;
}

ChatOutput::ChatOutput()
    : answers_on_terminal_(isatty(STDOUT_FILENO) != 0), notes_on_terminal_(isatty(STDERR_FILENO) != 0) {}

void ChatOutput::answer(std::string_view text) {
  const std::string safe = answers_on_terminal_ ? printable(text) : std::string(text);
  std::fwrite(safe.data(), 1, safe.size(), stdout);
  std::fflush(stdout);
}

void ChatOutput::note(std::string_view text) const {
  const bool dim = notes_on_terminal_ && std::getenv("NO_COLOR") == nullptr;
  fmt::print(stderr, "{}{}{}\n", dim ? "\x1b[2m" : "", notes_on_terminal_ ? printable(text) : std::string(text),
             dim ? "\x1b[0m" : "");
}

void ChatOutput::prompt() const { fmt::print(stderr, "> "); }

bool ChatOutput::failed() const { return std::ferror(stdout) != 0; }

}  // namespace baton::apps
