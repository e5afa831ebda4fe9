#include "kv/prefix_tree.h"

#include <algorithm>
#include <unordered_map>

namespace baton::kv {

struct PrefixTree::Node {
  Node* parent = nullptr;             // nullptr: a root
  const std::string* salt = nullptr;  // of a root
  std::vector<int32_t> tokens;        // pages.size() * page_tokens
  std::vector<PageLease> pages;
  std::map<std::vector<int32_t>, std::unique_ptr<Node>, Less> children;  // by the tokens of their first page
  uint64_t used = 0;                                                     // never after the parent's
  size_t depth = 0;                                                      // pages before its first
  size_t in_use = 0;    // of its pages, those that not only the tree holds
  size_t tail = 0;      // pages at its end that only the tree holds
  int blocked = 0;      // children that are in use, or before pages in use
  bool listed = false;  // among the unused leaves

  // A page in use is in it or behind it.
  [[nodiscard]] bool is_used() const { return in_use > 0 || blocked > 0; }
  // Of its pages, those that evict() could free.
  [[nodiscard]] int evictable() const { return blocked == 0 ? static_cast<int>(tail) : 0; }
};

bool PrefixTree::Less::operator()(std::span<const int32_t> a, std::span<const int32_t> b) const {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
}

PrefixTree::PrefixTree(PageLedger& ledger, int page_tokens) : ledger_(ledger), page_tokens_(page_tokens) {
  BATON_CHECK(page_tokens >= 1, "pages of {} tokens", page_tokens);
  ledger.observe_use(this);
  places_.resize(static_cast<size_t>(ledger.total()));
}

PrefixTree::~PrefixTree() {
  clear();
  ledger_.observe_use(nullptr);
}

std::vector<PageLease> PrefixTree::match(std::span<const int32_t> tokens, std::string_view salt) {
  std::vector<PageLease> leases;
  const auto root = roots_.find(salt);
  if (root == roots_.end()) return leases;
  ++tick_;
  Node* node = root->second.get();
  while (Node* child = child_of(*node, tokens)) {
    const size_t common = common_pages(*child, tokens);
    node = common < child->pages.size() ? &split(*child, common) : child;  // so that only what matched becomes recent
    touch(*node);
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
  if (root == roots_.end()) {
    root = roots_.emplace(salt, std::make_unique<Node>()).first;
    root->second->salt = &root->first;
  }
  ++tick_;
  Node* node = root->second.get();
  size_t known = 0;
  while (Node* child = child_of(*node, tokens)) {
    const size_t common = common_pages(*child, tokens);
    node = common < child->pages.size() ? &split(*child, common) : child;
    touch(*node);
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
  evictable_ -= node.evictable();
  auto front = std::make_unique<Node>();
  front->parent = node.parent;
  front->used = node.used;
  front->depth = node.depth;
  front->tokens.assign(node.tokens.begin(), node.tokens.begin() + tokens);
  front->pages.assign(std::make_move_iterator(node.pages.begin()), std::make_move_iterator(node.pages.begin() + cut));
  node.tokens.erase(node.tokens.begin(), node.tokens.begin() + tokens);
  node.pages.erase(node.pages.begin(), node.pages.begin() + cut);
  node.depth += pages;
  for (const PageLease& page : front->pages) {
    places_[page.page().value()].node = front.get();
    const bool unused = ledger_.state(page.page()) == PageState::kCached;
    front->in_use += unused ? 0 : 1;
    front->tail = unused ? front->tail + 1 : 0;
  }
  node.in_use -= front->in_use;
  node.tail = std::min(node.tail, node.pages.size());
  front->blocked = node.is_used() ? 1 : 0;
  evictable_ += front->evictable() + node.evictable();

  std::unique_ptr<Node>& place = node.parent->children.find(first_page(front->tokens))->second;
  const Tokens back_key = first_page(node.tokens);
  node.parent = front.get();
  front->children.emplace(std::vector<int32_t>(back_key.begin(), back_key.end()), std::move(place));
  place = std::move(front);
  ++nodes_;
  return *place;
}

void PrefixTree::add_leaf(Node& parent, Tokens tokens, std::vector<PageLease> pages) {
  auto leaf = std::make_unique<Node>();
  leaf->parent = &parent;
  leaf->depth = parent.depth + parent.pages.size();
  leaf->tokens.assign(tokens.begin(), tokens.end());
  leaf->pages = std::move(pages);
  leaf->used = tick_;
  for (size_t i = 0; i < leaf->pages.size(); ++i) {
    const PageId page = leaf->pages[i].page();
    ledger_.mark_cached(page, true);
    places_[page.value()] = {leaf.get(), leaf->depth + i};
    const bool unused = ledger_.state(page) == PageState::kCached;
    leaf->in_use += unused ? 0 : 1;
    leaf->tail = unused ? leaf->tail + 1 : 0;
  }
  pages_ += static_cast<int>(leaf->pages.size());
  ++nodes_;
  evictable_ += leaf->evictable();
  if (leaf->is_used()) note_blocked_child(&parent, 1);
  note_unused_leaf(*leaf);
  const Tokens key = first_page(tokens);
  parent.children.emplace(std::vector<int32_t>(key.begin(), key.end()), std::move(leaf));
  note_unused_leaf(parent);
}

void PrefixTree::drop_last_page(Node& node) {
  ledger_.mark_cached(node.pages.back().page(), false);
  node.pages.pop_back();
  --pages_;
}

// The node is used by the operation at hand.
void PrefixTree::touch(Node& node) {
  if (node.listed) unused_leaves_.erase(node.used);
  node.used = tick_;
  if (node.listed) unused_leaves_.emplace(tick_, &node);
}

void PrefixTree::page_used(PageId page) {
  const Place place = places_[page.value()];
  Node& node = *place.node;
  const bool was_used = node.is_used();
  evictable_ -= node.evictable();
  ++node.in_use;
  node.tail = std::min(node.tail, node.pages.size() - 1 - (place.depth - node.depth));
  evictable_ += node.evictable();
  note_unused_leaf(node);
  if (!was_used) note_blocked_child(node.parent, 1);
}

void PrefixTree::page_unused(PageId page) {
  Node& node = *places_[page.value()].node;
  evictable_ -= node.evictable();
  --node.in_use;
  const auto is_unused = [&](size_t i) { return ledger_.state(node.pages[i].page()) == PageState::kCached; };
  if (node.in_use == 0) node.tail = node.pages.size();
  while (node.tail < node.pages.size() && is_unused(node.pages.size() - 1 - node.tail)) ++node.tail;
  evictable_ += node.evictable();
  note_unused_leaf(node);
  if (!node.is_used()) note_blocked_child(node.parent, -1);
}

// A child of `node` is used now (1), or no longer (-1).
void PrefixTree::note_blocked_child(Node* node, int change) {
  for (; node->parent != nullptr; node = node->parent) {
    const bool was_used = node->is_used();
    evictable_ -= node->evictable();
    node->blocked += change;
    evictable_ += node->evictable();
    if (node->is_used() == was_used) return;
  }
}

// Whether the node is a leaf, or what of it is unused, may have changed.
void PrefixTree::note_unused_leaf(Node& node) {
  const bool is_unused = node.parent != nullptr && node.children.empty() && node.tail > 0;
  if (is_unused == node.listed) return;
  node.listed = is_unused;
  if (!is_unused) {
    unused_leaves_.erase(node.used);
    return;
  }
  const bool is_new = unused_leaves_.emplace(node.used, &node).second;
  BATON_CHECK(is_new, "two leaves used at {}", node.used);
}

int PrefixTree::evict(int pages) {
  BATON_CHECK(pages >= 0, "evict({})", pages);
  int evicted = 0;
  while (evicted < pages && !unused_leaves_.empty()) {
    Node& leaf = *unused_leaves_.begin()->second;
    for (; evicted < pages && leaf.tail > 0; ++evicted) {
      drop_last_page(leaf);
      --leaf.tail;
      --evictable_;
    }
    note_unused_leaf(leaf);
    if (leaf.pages.empty()) {
      remove_leaf(leaf);
    } else {
      leaf.tokens.resize(leaf.pages.size() * static_cast<size_t>(page_tokens_));
    }
  }
  return evicted;
}

// It has no pages any more. Its parent may be a leaf then, or a root without children, which goes too.
void PrefixTree::remove_leaf(Node& leaf) {
  Node& parent = *leaf.parent;
  parent.children.erase(parent.children.find(first_page(leaf.tokens)));
  --nodes_;
  if (parent.parent != nullptr) {
    note_unused_leaf(parent);
  } else if (parent.children.empty()) {
    roots_.erase(roots_.find(*parent.salt));
  }
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
  nodes_ = evictable_ = 0;
  unused_leaves_.clear();
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

// What evictable_pages() must be.
int PrefixTree::count_evictable() const {
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
  size_t unused_leaves = 0;
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
    size_t in_use = 0, tail = 0, depth = node->depth;
    BATON_CHECK(depth == node->parent->depth + node->parent->pages.size(), "a node begins at page {}", depth);
    for (const PageLease& page : node->pages) {
      const PageState state = ledger_.state(page.page());
      BATON_CHECK(state == PageState::kCached || (state == PageState::kOwned && ledger_.references(page.page()) >= 2),
                  "page {} of the tree is {}", page.page(), page_state_name(state));
      const Place& known = places_[page.page().value()];
      BATON_CHECK(known.node == node && known.depth == depth++, "page {} of the tree is looked for elsewhere",
                  page.page());
      in_use += state == PageState::kCached ? 0 : 1;
      tail = state == PageState::kCached ? tail + 1 : 0;
    }
    const auto blocked = std::count_if(node->children.begin(), node->children.end(),
                                       [](const auto& child) { return child.second->is_used(); });
    BATON_CHECK(in_use == node->in_use && tail == node->tail && blocked == node->blocked,
                "a node has {} pages in use, {} unused at its end, {} used children; noted {}, {}, {}", in_use, tail,
                blocked, node->in_use, node->tail, node->blocked);
    const auto leaf = unused_leaves_.find(node->used);
    const bool listed = leaf != unused_leaves_.end() && leaf->second == node;
    BATON_CHECK(listed == node->listed && listed == (node->children.empty() && tail > 0),
                "a node of {} children and {} unused pages at its end is listed: {}", node->children.size(), tail,
                listed);
    unused_leaves += listed ? 1 : 0;
    pages += static_cast<int>(node->pages.size());
  }
  BATON_CHECK(pages == pages_ && static_cast<int>(nodes.size()) == nodes_, "{} pages in {} nodes, noted {} in {}",
              pages, nodes.size(), pages_, nodes_);
  BATON_CHECK(unused_leaves == unused_leaves_.size() && count_evictable() == evictable_,
              "{} unused leaves, {} pages to evict; noted {} and {}", unused_leaves, count_evictable(),
              unused_leaves_.size(), evictable_);
}

}  // namespace baton::kv
