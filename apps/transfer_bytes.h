// KV bytes by source and destination rank, as the metrics of the instances behind a router state them.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

namespace baton::apps {

struct TransferBytes {
  std::set<int> sources, destinations;
  // Every link of a plan; 0 where the source holds the same bytes as another and stayed silent. Both sides count what
  // was applied, and the greater figure stands.
  std::map<std::pair<int, int>, double> links;

  // `metrics` is what a router's /engine_metrics says.
  static TransferBytes parse(const std::string& metrics);
  [[nodiscard]] double total() const;
};

}  // namespace baton::apps
