// Sleeping in the kernel until a word of memory changes.
//
// In place of std::atomic::wait, which always yields four times before it sleeps. To Linux a yield is a promise not to
// need the core, and since 6.18 costs the thread a time slice of it: whoever meets others often, as ranks do, is slowed
// down a hundredfold as soon as another program wants the same cores.
#pragma once

#include <atomic>
#include <cstdint>

namespace baton {

using FutexWord = std::atomic<uint32_t>;

// Returns when `word` is not `old` any more, at once if it never was; what was released with the change is visible.
void futex_wait(const FutexWord& word, uint32_t old);

// Wakes every thread that sleeps on `word`. Call it after each change that a waiter must see.
void futex_wake_all(const FutexWord& word);

}  // namespace baton
