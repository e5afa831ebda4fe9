#include "router/worker_metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace baton::router {
namespace {

using http::MetricFamily;
using http::MetricSample;

// The family of this name and type in `families`, made if it is not there. Null where another type has the name: what
// workers of two versions disagree about is the first one's.
MetricFamily* family_like(const MetricFamily& one, std::vector<MetricFamily>* families) {
  for (MetricFamily& family : *families) {
    if (family.name == one.name) return family.type == one.type ? &family : nullptr;
  }
  families->push_back({one.name, one.type, one.help, {}});
  return &families->back();
}

enum class Merge { kSum, kMean, kMax };

Merge merge_of(const MetricFamily& family) {
  if (family.type != "gauge") return Merge::kSum;
  const auto ends = [&](std::string_view end) { return family.name.ends_with(end); };
  if (ends("_usage") || ends("_perc") || ends("_rate") || ends("utilization")) return Merge::kMean;
  const bool same = ends("_info") || ends("_state") || ends(":page_size") || ends(":context_len");
  return same || ends("startup_time_seconds") ? Merge::kMax : Merge::kSum;
}

void name_role(MetricSample* sample, engine::Role role) {
  const auto has_role =
      std::ranges::any_of(sample->labels, [](const auto& label) { return label.first == "engine_type"; });
  if (has_role) return;
  const auto behind =
      std::ranges::find_if(sample->labels, [](const auto& label) { return label.first > "engine_type"; });
  sample->labels.insert(behind, {"engine_type", engine::role_name(role)});
}

bool is_summed(const std::string& name) { return name.starts_with("sglang:") || name.starts_with("vllm:"); }

// Samples that are added up, in the order in which they were first seen.
class Sums {
 public:
  void add(MetricSample sample, Merge merge) {
    const auto [at, fresh] = places_.try_emplace(sample.key(), sums_.size());
    const double value = sample.number();
    if (fresh) return sums_.push_back({std::move(sample), value, 1});
    Sum& sum = sums_[at->second];
    sum.value = merge == Merge::kMax ? std::max(sum.value, value) : sum.value + value;
    ++sum.count;
  }
  [[nodiscard]] std::vector<MetricSample> samples(Merge merge) && {
    std::vector<MetricSample> out;
    for (Sum& sum : sums_) {
      const double value = merge == Merge::kMean ? sum.value / sum.count : sum.value;
      sum.sample.value = std::isnan(value)   ? "NaN"
                         : std::isinf(value) ? (value > 0 ? "+Inf" : "-Inf")
                                             : fmt::format("{}", value);
      out.push_back(std::move(sum.sample));
    }
    return out;
  }

 private:
  struct Sum {
    MetricSample sample;
    double value;
    int count;
  };
  std::map<std::string, size_t> places_;
  std::vector<Sum> sums_;
};

}  // namespace

std::vector<WorkerPage> pages_of(std::vector<WorkerReply> replies) {
  std::vector<WorkerPage> pages;
  for (WorkerReply& reply : replies) {
    if (reply.status == 200) pages.push_back({reply.worker.url.authority(), reply.worker.role, std::move(reply.body)});
  }
  return pages;
}

std::vector<WorkerPage> LastPages::update(std::vector<WorkerReply> replies) {
  std::lock_guard lock(mutex_);
  std::map<std::string, WorkerPage> now;
  for (const WorkerReply& reply : replies) {
    if (const auto last = pages_.find(reply.worker.url.authority()); last != pages_.end()) now.insert(*last);
  }
  for (WorkerPage& page : pages_of(std::move(replies))) now[page.worker] = std::move(page);
  pages_ = std::move(now);
  std::vector<WorkerPage> pages;
  for (const auto& [worker, page] : pages_) pages.push_back(page);
  return pages;
}

std::vector<MetricFamily> labelled_metrics(const std::vector<WorkerPage>& pages) {
  std::vector<MetricFamily> all;
  for (const WorkerPage& page : pages) {
    auto families = http::parse_exposition(page.text);
    if (!families) continue;
    for (MetricFamily& family : *families) {
      MetricFamily* mine = family_like(family, &all);
      if (mine == nullptr) continue;
      for (MetricSample& sample : family.samples) {
        for (auto& label : sample.labels) {
          if (label.first == "worker") label.first = "exported_worker";  // as Prometheus does with a scraped one
        }
        sample.labels.emplace_back("worker", page.worker);
        mine->samples.push_back(std::move(sample));
      }
    }
  }
  return all;
}

std::vector<MetricFamily> summed_metrics(const std::vector<WorkerPage>& pages) {
  std::vector<MetricFamily> all;
  std::map<std::string, Sums> sums;  // by family
  for (const WorkerPage& page : pages) {
    auto families = http::parse_exposition(page.text);
    if (!families) continue;
    for (MetricFamily& family : *families) {
      if (!is_summed(family.name) || family_like(family, &all) == nullptr) continue;
      for (MetricSample& sample : family.samples) {
        name_role(&sample, page.role);
        sums[family.name].add(std::move(sample), merge_of(family));
      }
    }
  }
  for (MetricFamily& family : all) family.samples = std::move(sums[family.name]).samples(merge_of(family));
  return all;
}

}  // namespace baton::router
