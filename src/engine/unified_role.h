// Prefill and decode in one instance: no peer.
#pragma once

#include <string>

#include "engine/engine_core.h"
#include "engine/role_part.h"

namespace baton::engine {

class UnifiedRole final : public RolePart {
 public:
  explicit UnifiedRole(EngineCore& core) : core_(core) {}

  Status accept(LiveRequest& live) override;
  void poll(TimePoint) override {}
  void admitted(LiveRequest&) override {}
  void computed(LiveRequest&, int64_t) override {}
  void sampled(LiveRequest& live, GeneratedToken token) override;
  void release(LiveRequest& live, const std::string& why) override;
  void machine_failed(const std::string&) override {}
  void pair(const std::string& host, int port, bool told, std::function<void(Status)> done) override;
  void fill(EngineStats*) const override {}
  [[nodiscard]] std::string describe_pairs() const override { return {}; }
  [[nodiscard]] int listening_port() const override { return 0; }

 private:
  EngineCore& core_;
};

}  // namespace baton::engine
