// Counts the work of one rendering. Every function that makes or reads a value charges it here, the lowest ones
// themselves, so that no operation of the language can be forgotten. They find the meter by its thread.
#pragma once

#include <cstddef>

#include "jinja/limits.h"

namespace baton::jinja {

// While it lives, the calling thread's work counts here. Renderings do not nest. Every charge throws Failure when a
// bound is passed.
class Meter {
 public:
  explicit Meter(const RenderLimits& limits);
  ~Meter();
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

 private:
  friend void charge_steps(std::size_t);
  friend void charge_created(std::size_t);
  friend void check_text_size(std::size_t);
  void look();

  const RenderLimits& limits_;
  std::size_t steps_ = 0;
  std::size_t next_look_ = 0;
  std::size_t created_ = 0;
};

// Without a meter on this thread nothing is counted: while a template is parsed, whose size is bounded.
void charge_steps(std::size_t count);
// An operation that may read that many bytes of text.
void charge_read(std::size_t bytes);
// A value or container of that many bytes.
void charge_created(std::size_t bytes);
// A text of that many bytes, whole or so far. Charges nothing.
void check_text_size(std::size_t bytes);

}  // namespace baton::jinja
