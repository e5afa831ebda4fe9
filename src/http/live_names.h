// The names of the calls that run: no two at a time share one, since an abort by name would end both.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "base/result.h"
#include "http/api_request.h"

namespace baton::http {

// Thread safe. Its holds may outlive it.
class LiveNames {
  struct State {
    std::mutex mutex;
    std::set<std::string> names;
  };

 public:
  // Keeps the names of one call until it is released or goes. Thread safe.
  class Hold {
   public:
    Hold(std::shared_ptr<State> state, std::set<std::string> names);
    ~Hold() { release(); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    void release();

   private:
    const std::shared_ptr<State> state_;
    std::set<std::string> names_;  // guarded by the state's mutex
  };

  // kInvalidArgument: a running call has one of them.
  [[nodiscard]] Result<std::shared_ptr<Hold>> claim(const ApiRequest& request);
  [[nodiscard]] Result<std::shared_ptr<Hold>> claim(std::set<std::string> names);

 private:
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace baton::http
