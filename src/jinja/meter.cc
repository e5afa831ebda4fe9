#include "jinja/meter.h"

#include "base/check.h"
#include "jinja/value.h"

namespace baton::jinja {
namespace {

thread_local Meter* current = nullptr;

}  // namespace

Meter::Meter(const RenderLimits& limits) : limits_(limits) {
  BATON_CHECK(current == nullptr, "a rendering within a rendering");
  current = this;
}

Meter::~Meter() { current = nullptr; }

void Meter::look() {
  if (steps_ > limits_.steps_max) {
    fail("more than {} steps: the template or its input is too large", limits_.steps_max);
  }
  if (limits_.stop.stop_requested()) fail("the rendering was stopped");
  next_look_ = steps_ + kStepsPerLook < limits_.steps_max ? steps_ + kStepsPerLook : limits_.steps_max + 1;
}

void charge_steps(std::size_t count) {
  if (current == nullptr) return;
  current->steps_ += count;
  if (current->steps_ >= current->next_look_) current->look();
}

void charge_read(std::size_t bytes) { charge_steps(bytes / kReadBytesPerStep); }

void charge_created(std::size_t bytes) {
  if (current == nullptr) return;
  current->created_ += bytes;
  if (current->created_ <= current->limits_.created_bytes_max) return;
  fail("values of more than {} bytes: the template or its input is too large", current->limits_.created_bytes_max);
}

void check_text_size(std::size_t bytes) {
  if (current == nullptr || bytes <= current->limits_.output_bytes_max) return;
  fail("a text of {} bytes, at most {} are allowed", bytes, current->limits_.output_bytes_max);
}

}  // namespace baton::jinja
