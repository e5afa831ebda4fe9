// Prometheus' text format (version 0.0.4), read and written: what a server's /metrics says, as families of samples.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace baton::http {

struct MetricSample {
  std::string name;                                         // of a histogram's: with _bucket, _sum or _count
  std::vector<std::pair<std::string, std::string>> labels;  // values as they are written, with their escapes
  std::string value;                                        // as it is written

  [[nodiscard]] double number() const;
  // The name and the labels in braces: what tells two samples of a page apart.
  [[nodiscard]] std::string key() const;
};

struct MetricFamily {
  std::string name, type = "untyped", help;
  std::vector<MetricSample> samples;
};

// In the order of the page. A name whose lines stand in several places is several families. kInvalidArgument names the
// line that is none.
Result<std::vector<MetricFamily>> parse_exposition(std::string_view text);
[[nodiscard]] std::string render_exposition(const std::vector<MetricFamily>& families);

}  // namespace baton::http
