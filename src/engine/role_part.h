// What differs between unified, prefill and decode instances. The loop calls it from the engine's thread only.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "engine/engine.h"
#include "engine/live_request.h"

namespace baton::engine {

class RolePart {
 public:
  virtual ~RolePart() = default;

  // A checked request: puts its sequence into the scheduler. An error refuses it; then nothing of it may stay anywhere.
  virtual Status accept(LiveRequest& live) = 0;
  // Applies what peers did since the last call, and deadlines.
  virtual void poll(TimePoint now) = 0;
  // Its sequence got pages for the first time, or again after a retraction.
  virtual void admitted(LiveRequest& live) = 0;
  // The KV of its tokens [0, end) is computed.
  virtual void computed(LiveRequest& live, int64_t end) = 0;
  // The token after its last one was sampled.
  virtual void sampled(LiveRequest& live, GeneratedToken token) = 0;
  // The client has or gets its last Output: removes the sequence from the scheduler, keeping pages that a peer still
  // uses.
  virtual void release(LiveRequest& live, const std::string& why) = 0;
  // The executor failed; nothing more will be computed.
  virtual void machine_failed(const std::string& why) = 0;

  virtual void pair(const std::string& host, int port, bool told, std::function<void(Status)> done) = 0;
  // Adds what only the role knows.
  virtual void fill(EngineStats* stats) const = 0;
  [[nodiscard]] virtual std::string describe_pairs() const = 0;
  // Where peers find it; 0 when they do not.
  [[nodiscard]] virtual int listening_port() const = 0;
};

}  // namespace baton::engine
