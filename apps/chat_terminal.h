// The two ends of a chat: lines that are typed or come through a pipe, and text that is shown.
#pragma once

#include <string>
#include <string_view>

#include "signals.h"

namespace baton::apps {

// Reads standard input a line at a time and takes signals meanwhile. A terminal's own line editing is what edits.
class TypedLines {
 public:
  static constexpr size_t kLineBytesMax = size_t{16} << 20;
  enum class Kind { kLine, kEnd, kTooLong, kSignal };
  struct Event {
    Kind kind;
    std::string line;  // without its end; lines that end in a backslash go on in the next
    int signal = 0;    // SIGINT, SIGTERM, SIGCHLD
  };

  explicit TypedLines(SignalWait& signals) : signals_(signals) {}
  // Waits for the next of them. A signal drops what was begun with a backslash.
  Event next();
  [[nodiscard]] static bool is_terminal();

 private:
  bool take_line(std::string& line);

  SignalWait& signals_;
  std::string bytes_;  // read and not yet given
  std::string begun_;  // lines that ended in a backslash
  bool ended_ = false;
};

// `text` (UTF-8) as a terminal may be given it: control characters are spelled, so that a server cannot move the
// cursor, set the title or fill the clipboard.
[[nodiscard]] std::string printable(std::string_view text);

// Answers go to standard output and nothing else does, so that they can be piped on; the rest goes to standard error.
class ChatOutput {
 public:
  ChatOutput();
  // One thread at a time.
  void answer(std::string_view text);
  // A line beside the answers, dim on a terminal.
  void note(std::string_view text) const;
  void prompt() const;
  // Standard output takes no more, as when its reader has left.
  [[nodiscard]] bool failed() const;

 private:
  const bool answers_on_terminal_, notes_on_terminal_;
};

}  // namespace baton::apps
