// For tests: what is wrong with a page of metrics, as Prometheus and its promtool see it.
#pragma once

#include <cmath>
#include <map>
#include <set>
#include <string>

#include "http/exposition.h"

namespace baton::http {

// The buckets of each series must rise to one that takes all, which is its count; a sum goes with them.
inline std::string histogram_faults(const MetricFamily& family) {
  struct Series {
    double last = 0, all = -1, count = -2, bound = -HUGE_VAL;
    bool sum = false, rises = true;
  };
  std::map<std::string, Series> by_labels;
  for (MetricSample sample : family.samples) {
    double bound = 0;
    std::erase_if(sample.labels, [&](const auto& label) {
      if (label.first == "le") bound = MetricSample{"", {}, label.second}.number();
      return label.first == "le";
    });
    const std::string kind = std::exchange(sample.name, "").substr(family.name.size());
    Series& series = by_labels[sample.key()];
    if (kind == "_bucket") {
      series.rises = series.rises && bound > series.bound && sample.number() >= series.last;
      series.bound = bound;
      series.last = sample.number();
      if (std::isinf(bound)) series.all = sample.number();
    }
    if (kind == "_count") series.count = sample.number();
    series.sum = series.sum || kind == "_sum";
  }
  std::string faults;
  for (const auto& [labels, series] : by_labels) {
    if (!series.rises || series.all != series.count || !series.sum) faults += family.name + labels + ": buckets\n";
  }
  return faults;
}

// One line each; "" if all is well.
inline std::string exposition_faults(const std::string& text) {
  const auto families = parse_exposition(text);
  if (!families) return families.error().message + "\n";
  std::string faults;
  if (!text.empty() && !text.ends_with('\n')) faults += "the last line does not end\n";
  std::set<std::string> names, keys;
  for (const MetricFamily& family : *families) {
    if (!names.insert(family.name).second) faults += family.name + ": twice\n";
    if (family.help.empty()) faults += family.name + ": no HELP\n";
    if (family.type == "untyped") faults += family.name + ": no TYPE\n";
    if (family.type == "counter" && !family.name.ends_with("_total")) faults += family.name + ": no _total\n";
    if (family.type == "histogram") faults += histogram_faults(family);
    for (const MetricSample& sample : family.samples) {
      if (!keys.insert(sample.key()).second) faults += sample.key() + ": twice\n";
      if (family.type == "counter" && !(sample.number() >= 0)) faults += sample.key() + ": below 0\n";
    }
  }
  // Of its parser's "# TYPE" lines each stands once.
  for (const std::string& name : names) {
    const std::string line = "# TYPE " + name + " ";
    const size_t first = text.find(line);
    if (first != std::string::npos && text.find(line, first + 1) != std::string::npos) faults += name + ": two TYPEs\n";
  }
  return faults;
}

}  // namespace baton::http
