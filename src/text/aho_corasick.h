// The automaton of Aho and Corasick (CACM 18(6), 1975): finds any of many strings in one pass over the text.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace baton::text {

// Immutable after construction; any number of threads may use it at once, each with its own State.
class AhoCorasick {
 public:
  using State = uint32_t;
  static constexpr State kRoot = 0;

  struct Match {
    size_t begin;  // byte offsets
    size_t end;
    size_t pattern;  // index into the constructor's list
    size_t read_to;  // how far the text was read to be sure of the longest
  };

  // Empty patterns never match. Of equal patterns the first one counts.
  explicit AhoCorasick(const std::vector<std::string>& patterns);

  // The state after one more byte. Amortized constant: every step back was paid for by a step forward.
  [[nodiscard]] State step(State state, unsigned char byte) const;
  // How many of the last bytes may begin a pattern: the longest suffix of the text that is a prefix of one.
  [[nodiscard]] size_t depth(State state) const { return nodes_[state].depth; }
  // The longest pattern that ends here.
  [[nodiscard]] std::optional<size_t> pattern(State state) const;
  [[nodiscard]] size_t pattern_length(size_t pattern) const { return lengths_[pattern]; }

  // The first match at or after `from`: the leftmost, and of those that begin there the longest.
  [[nodiscard]] std::optional<Match> find_leftmost_longest(std::string_view text, size_t from) const;

 private:
  struct Edge {
    unsigned char byte;
    State target;
  };
  struct Node {
    std::vector<Edge> edges;  // sorted by byte
    State fail = kRoot;       // the node of the longest proper suffix that is in the trie
    int32_t pattern = -1;     // the longest pattern that is a suffix of this node's text
    uint32_t depth = 0;
  };
  [[nodiscard]] std::optional<State> child(State state, unsigned char byte) const;
  State add_child(State state, unsigned char byte);
  void link_failures();

  std::vector<Node> nodes_;
  std::array<State, 256> root_step_{};  // the root's edges, kRoot where there is none
  std::vector<size_t> lengths_;
};

}  // namespace baton::text
