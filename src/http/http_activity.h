// Which requests a server answers, by endpoint: SGLang's metrics of its HTTP side.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "http/exposition.h"
#include "http/server.h"

namespace baton::http {

// Thread safe. Outlives the writers that it watches.
class HttpActivity {
 public:
  HttpActivity();  // generation stands at zero before its first request

  // Counts one request that begins now and ends with its answer. `endpoint` is a route's path: there are few of them.
  std::shared_ptr<ResponseWriter> watch(std::shared_ptr<ResponseWriter> writer, std::string endpoint,
                                        std::string method);
  [[nodiscard]] std::vector<MetricFamily> families() const;

 private:
  class Watched;
  using Key = std::pair<std::string, std::string>;  // endpoint, method
  struct Counts {
    uint64_t active = 0, requests = 0;
    std::map<int, uint64_t> answers;  // by status
  };
  void answered(const Key& key, int status);
  void ended(const Key& key);

  mutable std::mutex mutex_;
  std::map<Key, Counts> counts_;
};

}  // namespace baton::http
