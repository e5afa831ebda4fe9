// The name of the weights that are served: whoever trains them tells versions apart by it.
#pragma once

#include <mutex>
#include <string>

namespace baton::http {

// Thread safe.
class WeightVersion {
 public:
  [[nodiscard]] std::string get() const {
    std::lock_guard lock(mutex_);
    return name_;
  }
  void set(std::string name) {
    std::lock_guard lock(mutex_);
    name_ = std::move(name);
  }

 private:
  mutable std::mutex mutex_;
  std::string name_ = "default";
};

}  // namespace baton::http
