#include "text/aho_corasick.h"

#include <algorithm>

namespace baton::text {

AhoCorasick::AhoCorasick(const std::vector<std::string>& patterns) : nodes_(1) {
  for (const std::string& text : patterns) {
    lengths_.push_back(text.size());
    if (text.empty()) continue;
    State state = kRoot;
    for (char c : text) state = add_child(state, static_cast<unsigned char>(c));
    if (nodes_[state].pattern < 0) nodes_[state].pattern = static_cast<int32_t>(lengths_.size() - 1);
  }
  for (const Edge& edge : nodes_[kRoot].edges) root_step_[edge.byte] = edge.target;
  link_failures();
}

AhoCorasick::State AhoCorasick::add_child(State state, unsigned char byte) {
  if (const auto found = child(state, byte)) return *found;
  const auto target = static_cast<State>(nodes_.size());
  nodes_.emplace_back().depth = nodes_[state].depth + 1;
  auto& edges = nodes_[state].edges;
  const auto place =
      std::lower_bound(edges.begin(), edges.end(), byte, [](Edge edge, unsigned char b) { return edge.byte < b; });
  edges.insert(place, Edge{byte, target});
  return target;
}

std::optional<AhoCorasick::State> AhoCorasick::child(State state, unsigned char byte) const {
  const auto& edges = nodes_[state].edges;
  const auto place =
      std::lower_bound(edges.begin(), edges.end(), byte, [](Edge edge, unsigned char b) { return edge.byte < b; });
  if (place == edges.end() || place->byte != byte) return std::nullopt;
  return place->target;
}

// Breadth first, so that a node's suffixes, which are shorter, are linked before it.
void AhoCorasick::link_failures() {
  std::vector<State> queue = {kRoot};
  for (size_t i = 0; i < queue.size(); ++i) {
    const State state = queue[i];
    for (const Edge& edge : nodes_[state].edges) {
      Node& node = nodes_[edge.target];
      node.fail = state == kRoot ? kRoot : step(nodes_[state].fail, edge.byte);
      if (node.pattern < 0) node.pattern = nodes_[node.fail].pattern;
      queue.push_back(edge.target);
    }
  }
}

AhoCorasick::State AhoCorasick::step(State state, unsigned char byte) const {
  for (; state != kRoot; state = nodes_[state].fail) {
    if (const auto next = child(state, byte)) return *next;
  }
  return root_step_[byte];
}

std::optional<size_t> AhoCorasick::pattern(State state) const {
  const int32_t index = nodes_[state].pattern;
  return index < 0 ? std::nullopt : std::optional<size_t>(index);
}

std::optional<AhoCorasick::Match> AhoCorasick::find_leftmost_longest(std::string_view text, size_t from) const {
  std::optional<Match> best;
  State state = kRoot;
  size_t at = from;
  for (; at < text.size(); ++at) {
    state = step(state, static_cast<unsigned char>(text[at]));
    const size_t end = at + 1;
    // Whatever is still to be found begins at end - depth or later.
    if (best && end - depth(state) > best->begin) break;
    if (const auto index = pattern(state)) {
      const size_t begin = end - lengths_[*index];
      if (!best || begin <= best->begin) best = Match{begin, end, *index, 0};
    }
  }
  if (best) best->read_to = at;
  return best;
}

}  // namespace baton::text
