// Ends a stream of text at the first stop string, without ever having sent out a part of it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/aho_corasick.h"

namespace baton::text {

// One for each stream; used by one thread at a time. The first stop string is the one whose last byte comes first; of
// those that end there together, the longest. So the outcome does not depend on how the text is cut into calls of feed.
class StopMatcher {
 public:
  struct Options {
    bool no_stop_trim = false;  // the stop string stays in the text
  };
  struct Output {
    std::string text;            // safe to send: none of it can belong to a stop string to come
    std::optional<size_t> stop;  // which stop string was met, as an index into the constructor's list
  };

  // Empty strings never match.
  StopMatcher(const std::vector<std::string>& stops, Options options) : automaton_(stops), options_(options) {}

  // More text. After a stop was met all text is dropped. Of valid UTF-8 it never sends out a part of a character,
  // provided that every call gets whole characters and the stop strings are valid UTF-8.
  // Without `may_stop` no stop string is met in it, but one may begin there.
  [[nodiscard]] Output feed(std::string_view text, bool may_stop = true);

  // The end of the stream: the text held back, since no stop string can follow.
  [[nodiscard]] std::string finish();

  // The stop string that was met.
  [[nodiscard]] std::optional<size_t> stopped() const { return stop_; }

 private:
  AhoCorasick automaton_;
  Options options_;
  AhoCorasick::State state_ = AhoCorasick::kRoot;
  std::string held_;  // the last depth(state_) bytes of the text: they may begin a stop string
  std::optional<size_t> stop_;
};

}  // namespace baton::text
