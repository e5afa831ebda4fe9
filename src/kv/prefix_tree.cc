#include "kv/prefix_tree.h"

#include <algorithm>
#include <queue>
#include <unordered_map>

namespace baton::kv {

struct PrefixTree::Node {
  Node* parent = nullptr;       // nullptr: a root
  std::vector<int32_t> tokens;  // pages.size() * page_tokens
  std::vector<PageLease> pages;
  std::map<std::vector<int32_t>, std::unique_ptr<Node>, Less> children;  // by the tokens of their first page
  uint64_t used = 0;                                                     // never after the parent's
};

bool PrefixTree::Less::operator()(std::span<const int32_t> a, std::span<const int32_t> b) const {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
}

PrefixTree::PrefixTree(PageLedger& ledger, int page_tokens) : ledger_(ledger), page_tokens_(page_tokens) {
  BATON_CHECK(page_tokens >= 1, "pages of {} tokens", page_tokens);
}

PrefixTree::~PrefixTree() { clear(); }

std::vector<PageLease> PrefixTree::match(std::span<const int32_t> tokens, std::string_view salt) {
  std::vector<PageLease> leases;
  const auto root = roots_.find(salt);
  if (root == roots_.end()) return leases;
  ++tick_;
  Node* node = root->second.get();
  while (Node* child = child_of(*node, tokens)) {
    const size_t common = common_pages(*child, tokens);
    node = common < child->pages.size() ? &split(*child, common) : child;  // so that only what matched becomes recent
    node->used = tick_;
    for (const PageLease& page : node->pages) leases.push_back(page.share());
    tokens = tokens.subspan(node->tokens.size());
  }
  return leases;
}

int64_t PrefixTree::cached_tokens(std::span<const int32_t> tokens, std::string_view salt) const {
  const auto root = roots_.find(salt);
  if (root == roots_.end()) return 0;
  int64_t found = 0;
  const Node* node = root->second.get();
  while (const Node* child = child_of(*node, tokens)) {
    const size_t common = common_pages(*child, tokens);
    found += static_cast<int64_t>(common) * page_tokens_;
    if (common < child->pages.size()) break;
    tokens = tokens.subspan(child->tokens.size());
    node = child;
  }
  return found;
}

int PrefixTree::insert(std::span<const int32_t> tokens, std::vector<PageLease> pages, std::string_view salt) {
  BATON_CHECK(pages.size() == tokens.size() / static_cast<size_t>(page_tokens_), "{} tokens in {} pages of {}",
              tokens.size(), pages.size(), page_tokens_);
  if (pages.empty()) return 0;
  tokens = tokens.first(pages.size() * static_cast<size_t>(page_tokens_));
  auto root = roots_.find(salt);
  if (root == roots_.end()) root = roots_.emplace(salt, std::make_unique<Node>()).first;
  ++tick_;
  Node* node = root->second.get();
  size_t known = 0;
  while (Node* child = child_of(*node, tokens)) {
    const size_t common = common_pages(*child, tokens);
    node = common < child->pages.size() ? &split(*child, common) : child;
    node->used = tick_;
    known += common;
    tokens = tokens.subspan(node->tokens.size());
  }
  const size_t added = pages.size() - known;
  if (added > 0) {
    add_leaf(
        *node, tokens,
        {std::make_move_iterator(pages.begin() + static_cast<ptrdiff_t>(known)), std::make_move_iterator(pages.end())});
  }
  return static_cast<int>(added);
}

size_t PrefixTree::common_pages(const Node& node, Tokens tokens) const {
  const auto differ = std::mismatch(node.tokens.begin(), node.tokens.end(), tokens.begin(), tokens.end()).first;
  return static_cast<size_t>(differ - node.tokens.begin()) / static_cast<size_t>(page_tokens_);
}

PrefixTree::Node* PrefixTree::child_of(const Node& node, Tokens tokens) const {
  if (tokens.size() < static_cast<size_t>(page_tokens_)) return nullptr;
  const auto child = node.children.find(first_page(tokens));
  return child == node.children.end() ? nullptr : child->second.get();
}

// Cuts a node after its first `pages` pages and returns the new node that holds those; 0 < pages < node.pages.size().
PrefixTree::Node& PrefixTree::split(Node& node, size_t pages) {
  const auto tokens = static_cast<ptrdiff_t>(pages) * page_tokens_;
  const auto cut = static_cast<ptrdiff_t>(pages);
  auto front = std::make_unique<Node>();
  front->parent = node.parent;
  front->used = node.used;
  front->tokens.assign(node.tokens.begin(), node.tokens.begin() + tokens);
  front->pages.assign(std::make_move_iterator(node.pages.begin()), std::make_move_iterator(node.pages.begin() + cut));
  node.tokens.erase(node.tokens.begin(), node.tokens.begin() + tokens);
  node.pages.erase(node.pages.begin(), node.pages.begin() + cut);

  std::unique_ptr<Node>& place = node.parent->children.find(first_page(front->tokens))->second;
  const Tokens back_key = first_page(node.tokens);
  node.parent = front.get();
  front->children.emplace(std::vector<int32_t>(back_key.begin(), back_key.end()), std::move(place));
  place = std::move(front);
  ++nodes_;
  return *place;
}

void PrefixTree::add_leaf(Node& parent, Tokens tokens, std::vector<PageLease> pages) {
  for (const PageLease& page : pages) ledger_.mark_cached(page.page(), true);
  pages_ += static_cast<int>(pages.size());
  ++nodes_;
  auto leaf = std::make_unique<Node>();
  leaf->parent = &parent;
  leaf->tokens.assign(tokens.begin(), tokens.end());
  leaf->pages = std::move(pages);
  leaf->used = tick_;
  const Tokens key = first_page(tokens);
  parent.children.emplace(std::vector<int32_t>(key.begin(), key.end()), std::move(leaf));
}

void PrefixTree::drop_last_page(Node& node) {
  ledger_.mark_cached(node.pages.back().page(), false);
  node.pages.pop_back();
  --pages_;
}

int PrefixTree::evict(int pages) {
  BATON_CHECK(pages >= 0, "evict({})", pages);
  const auto later = [](const Node* a, const Node* b) { return a->used > b->used; };
  std::priority_queue<Node*, std::vector<Node*>, decltype(later)> leaves(later);
  for (Node* node : parents_first()) {
    if (node->children.empty()) leaves.push(node);
  }
  int evicted = 0;
  while (evicted < pages && !leaves.empty()) {
    Node* leaf = leaves.top();
    leaves.pop();
    while (evicted < pages && !leaf->pages.empty() && ledger_.state(leaf->pages.back().page()) == PageState::kCached) {
      drop_last_page(*leaf);
      ++evicted;
    }
    if (!leaf->pages.empty()) {  // the rest is in use, or enough is evicted
      leaf->tokens.resize(leaf->pages.size() * static_cast<size_t>(page_tokens_));
      continue;
    }
    Node* parent = leaf->parent;
    parent->children.erase(parent->children.find(first_page(leaf->tokens)));
    --nodes_;
    if (parent->children.empty() && parent->parent != nullptr) leaves.push(parent);
  }
  std::erase_if(roots_, [](const auto& root) { return root.second->children.empty(); });
  return evicted;
}

// Node by node: a chain of thousands of nodes must not be destroyed by recursion.
void PrefixTree::clear() {
  std::vector<std::unique_ptr<Node>> nodes;
  for (auto& [salt, root] : roots_) nodes.push_back(std::move(root));
  roots_.clear();
  for (size_t i = 0; i < nodes.size(); ++i) {
    while (!nodes[i]->pages.empty()) drop_last_page(*nodes[i]);
    auto children = std::move(nodes[i]->children);
    for (auto& [key, child] : children) nodes.push_back(std::move(child));
  }
  nodes_ = 0;
  BATON_CHECK(pages_ == 0, "{} pages left after clear()", pages_);
}

// Without the roots.
std::vector<PrefixTree::Node*> PrefixTree::parents_first() const {
  std::vector<Node*> nodes;
  nodes.reserve(static_cast<size_t>(nodes_));
  const auto add_children = [&nodes](const Node& node) {
    for (const auto& [key, child] : node.children) nodes.push_back(child.get());
  };
  for (const auto& [salt, root] : roots_) add_children(*root);
  for (size_t i = 0; i < nodes.size(); ++i) add_children(*nodes[i]);
  return nodes;
}

int PrefixTree::evictable_pages() const {
  const std::vector<Node*> nodes = parents_first();
  std::unordered_map<const Node*, bool> blocked;  // a page in use lies behind
  int evictable = 0;
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    bool& stop = blocked[*node];
    for (auto page = (*node)->pages.rbegin(); page != (*node)->pages.rend() && !stop; ++page) {
      stop = ledger_.state(page->page()) != PageState::kCached;
      if (!stop) ++evictable;
    }
    if (stop) blocked[(*node)->parent] = true;
  }
  return evictable;
}

void PrefixTree::audit() const {
  int pages = 0;
  const std::vector<Node*> nodes = parents_first();
  for (const auto& [salt, root] : roots_) {
    BATON_CHECK(root->pages.empty() && root->parent == nullptr && !root->children.empty(), "root of salt \"{}\"", salt);
  }
  for (const Node* node : nodes) {
    BATON_CHECK(!node->pages.empty() && node->tokens.size() == node->pages.size() * static_cast<size_t>(page_tokens_),
                "a node of {} pages and {} tokens", node->pages.size(), node->tokens.size());
    const auto place = node->parent->children.find(first_page(node->tokens));
    BATON_CHECK(place != node->parent->children.end() && place->second.get() == node,
                "a node is not where its tokens say");
    BATON_CHECK(node->used <= tick_ && (node->parent->parent == nullptr || node->used <= node->parent->used),
                "a node used at {}, its parent at {}", node->used, node->parent->used);
    for (const PageLease& page : node->pages) {
      const PageState state = ledger_.state(page.page());
      BATON_CHECK(state == PageState::kCached || (state == PageState::kOwned && ledger_.references(page.page()) >= 2),
                  "page {} of the tree is {}", page.page(), page_state_name(state));
    }
    pages += static_cast<int>(node->pages.size());
  }
  BATON_CHECK(pages == pages_ && static_cast<int>(nodes.size()) == nodes_, "{} pages in {} nodes, noted {} in {}",
              pages, nodes.size(), pages_, nodes_);
}

}  // namespace baton::kv
