// Include arrows point one way: the table of docs/ARCHITECTURE.md, held against every #include under src/.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace baton {
namespace {

using Edges = std::map<std::string, std::set<std::string>>;

// A folder may include itself, base, and what stands here.
const Edges kAllowed = {
    {"base", {}},
    {"layout", {}},
    {"tensor", {}},
    {"device", {"layout", "tensor"}},
    {"kv", {}},
    {"wire", {"layout"}},
    {"transport", {"device"}},
    {"handoff", {"layout", "tensor", "device", "kv", "wire", "transport"}},
    {"jinja", {}},
    {"text", {"jinja"}},
    {"sampling", {}},
    {"kernels", {"sampling", "tensor"}},
    {"comm", {"tensor"}},
    {"model", {"layout", "device", "kv", "sampling", "tensor", "kernels", "comm"}},
    {"scheduler", {"kv"}},
    {"engine",
     {"layout", "device", "kv", "sampling", "tensor", "kernels", "model", "scheduler", "transport", "wire", "handoff"}},
    // Of engine/ only its interface, see kPublic.
    {"http", {"engine", "text", "layout"}},
    {"router", {"http", "engine"}},
    {"bench", {"http", "text"}},
};
// The headers of a folder that folders above it may see.
const Edges kPublic = {{"engine", {"engine/engine.h"}}};

// "arrow: file includes header" for each include that the table forbids.
std::vector<std::string> forbidden(const Edges& allowed) {
  static const std::regex include("^#include \"(([a-z]+)/[^\"]+)\"");
  std::vector<std::string> found;
  const std::filesystem::path root = std::filesystem::path(BATON_SOURCE_DIR) / "src";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cc" && extension != ".cuh" && extension != ".cu") continue;
    // Tests may use anything below them in the order of the build, so that a layer can be tried with its neighbours'
    // fakes.
    if (entry.path().stem().string().ends_with("_test")) continue;
    const std::string folder = std::filesystem::relative(entry.path(), root).begin()->string();
    std::ifstream file(entry.path());
    for (std::string line; std::getline(file, line);) {
      std::smatch match;
      if (!std::regex_search(line, match, include)) continue;
      const std::string header = match[1], to = match[2];
      if (to == folder || to == "base" || !kAllowed.contains(to)) continue;  // kAllowed has every folder, see below
      const auto row = allowed.find(folder);
      const auto seen = kPublic.find(to);
      const bool hidden = seen != kPublic.end() && !seen->second.contains(header);
      if (row == allowed.end() || !row->second.contains(to) || hidden) {
        found.push_back(folder + " -> " + to + ": " + entry.path().filename().string() + " includes " + header);
      }
    }
  }
  return found;
}

TEST(Arrows, PointOneWay) {
  for (const std::string& arrow : forbidden(kAllowed)) ADD_FAILURE() << arrow;
}

TEST(Arrows, EveryFolderIsInTheTableAndTheTableHasNoCycle) {
  const std::filesystem::path root = std::filesystem::path(BATON_SOURCE_DIR) / "src";
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    EXPECT_TRUE(!entry.is_directory() || kAllowed.contains(entry.path().filename().string())) << entry.path();
  }
  // Take away folders that need nobody who is left; a cycle would leave some.
  Edges left = kAllowed;
  for (bool moved = true; moved;) {
    moved = false;
    for (auto it = left.begin(); it != left.end();) {
      bool free = true;
      for (const std::string& to : it->second) free = free && !left.contains(to);
      if (free) moved = true;
      it = free ? left.erase(it) : std::next(it);
    }
  }
  EXPECT_TRUE(left.empty()) << left.begin()->first;
}

TEST(Arrows, TheTestSeesAForbiddenArrow) {
  Edges strict = kAllowed;
  strict["kernels"].clear();
  EXPECT_FALSE(forbidden(strict).empty());
}

}  // namespace
}  // namespace baton
