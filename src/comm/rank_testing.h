// For tests: a thread for each rank.
#pragma once

#include <functional>
#include <thread>
#include <vector>

namespace baton::comm {

// Calls body(rank) on `ranks` threads and returns when all have returned.
inline void on_ranks(int ranks, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) threads.emplace_back(body, r);
  for (std::thread& t : threads) t.join();
}

}  // namespace baton::comm
