#include "transfer_bytes.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>

namespace baton::apps {

TransferBytes TransferBytes::parse(const std::string& metrics) {
  TransferBytes found;
  std::istringstream lines(metrics);
  for (std::string line; std::getline(lines, line);) {
    const bool is_bytes = line.starts_with("baton_transfer_bytes_total{");
    if (!is_bytes && !line.starts_with("baton_link_planned{")) continue;
    const size_t s = line.find("src_rank=\""), d = line.find("dst_rank=\""), space = line.rfind(' ');
    if (s == std::string::npos || d == std::string::npos) continue;
    const int source = std::atoi(line.c_str() + s + 10), destination = std::atoi(line.c_str() + d + 10);
    found.sources.insert(source);
    found.destinations.insert(destination);
    double& bytes = found.links[{source, destination}];
    if (is_bytes) bytes = std::max(bytes, std::atof(line.c_str() + space));
  }
  return found;
}

double TransferBytes::total() const {
  double sum = 0;
  for (const auto& [link, bytes] : links) sum += bytes;
  return sum;
}

}  // namespace baton::apps
