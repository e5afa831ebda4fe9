#include "router/worker_loads.h"

#include <fmt/chrono.h>

#include <boost/json.hpp>

#include "http/json.h"

namespace baton::router {

namespace json = boost::json;

namespace {

std::string url_of(const WorkerReply& reply) { return "http://" + reply.worker.url.authority(); }

// The entries of one worker's DP ranks; nothing if it did not say.
std::optional<json::array> entries_of(const WorkerReply& reply) {
  boost::system::error_code bad;
  json::value said = json::parse(reply.body, bad);
  if (bad || reply.status != 200) return std::nullopt;
  if (said.is_object() && said.as_object().contains("loads")) said = json::value(said.as_object()["loads"]);
  if (!said.is_array()) return std::nullopt;
  json::array entries;
  for (json::value& entry : said.as_array()) {
    if (!entry.is_object()) continue;
    entry.as_object()["url"] = url_of(reply);
    entries.push_back(std::move(entry));
  }
  return entries;
}

json::array all_entries(const std::vector<WorkerReply>& replies) {
  json::array all;
  for (const WorkerReply& reply : replies) {
    if (auto entries = entries_of(reply)) all.insert(all.end(), entries->begin(), entries->end());
  }
  return all;
}

int64_t sum_of(const json::array& entries, const char* field) {
  int64_t sum = 0;
  for (const json::value& entry : entries) {
    const json::value* count = http::find_field(entry.as_object(), field);
    if (count != nullptr && count->is_int64()) sum += count->as_int64();
  }
  return sum;
}

}  // namespace

std::string loads_of_ranks(const std::vector<WorkerReply>& replies) { return json::serialize(all_entries(replies)); }

std::string loads_in_all(const std::vector<WorkerReply>& replies, const std::string& version) {
  json::array entries = all_entries(replies);
  json::object out;
  out["timestamp"] = fmt::format("{:%FT%TZ}", fmt::gmtime(std::time(nullptr)));
  out["version"] = version;
  out["dp_rank_count"] = entries.size();
  out["aggregate"] = json::object{{"total_running_reqs", sum_of(entries, "num_running_reqs")},
                                  {"total_waiting_reqs", sum_of(entries, "num_waiting_reqs")},
                                  {"total_reqs", sum_of(entries, "num_total_reqs")}};
  out["loads"] = std::move(entries);
  return json::serialize(out);
}

std::string loads_of_workers(const std::vector<WorkerReply>& replies) {
  json::array workers;
  for (const WorkerReply& reply : replies) {
    const auto entries = entries_of(reply);
    workers.push_back(json::object{{"worker", url_of(reply)}, {"load", entries ? sum_of(*entries, "num_tokens") : -1}});
  }
  return json::serialize(json::object{{"workers", std::move(workers)}});
}

}  // namespace baton::router
