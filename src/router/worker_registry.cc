#include "router/worker_registry.h"

#include <algorithm>
#include <optional>

#include "base/random.h"

namespace baton::router {
namespace {

// A random one (RFC 9562, version 4).
std::string draw_uuid() {
  const uint64_t a = entropy(), b = entropy();
  return fmt::format("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xfff,
                     0x8000 | ((b >> 48) & 0x3fff), b & 0xffffffffffff);
}

}  // namespace

Status WorkerRegistry::add(const WorkerAddress& address, WorkerTraits traits) {
  std::lock_guard lock(mutex_);
  if (find(address.url) != nullptr)
    return error(ErrorCode::kInvalidArgument, "{} is a worker already", address.url.authority());
  Worker worker;
  worker.view.id = next_id_++;
  worker.view.name = draw_uuid();
  worker.view.address = address;
  worker.view.traits = std::move(traits);
  worker.view.problem = "not probed yet";
  workers(address.role).push_back(std::move(worker));
  return {};
}

Status WorkerRegistry::remove(const http::Url& url) {
  std::lock_guard lock(mutex_);
  for (auto* list : {&prefill_, &decode_}) {
    const auto gone = std::remove_if(
        list->begin(), list->end(), [&](const Worker& w) { return w.view.address.url.authority() == url.authority(); });
    if (gone == list->end()) continue;
    list->erase(gone, list->end());
    forget_pairings(url.authority());
    return {};
  }
  return error(ErrorCode::kNotFound, "{} is not a worker of this router", url.authority());
}

WorkerRegistry::Worker* WorkerRegistry::find(const http::Url& url) {
  for (auto* list : {&prefill_, &decode_}) {
    for (Worker& worker : *list) {
      if (worker.view.address.url.authority() == url.authority()) return &worker;
    }
  }
  return nullptr;
}

WorkerRegistry::Worker* WorkerRegistry::find(uint64_t id) {
  for (auto* list : {&prefill_, &decode_}) {
    for (Worker& worker : *list) {
      if (worker.view.id == id) return &worker;
    }
  }
  return nullptr;
}

void WorkerRegistry::set_traits(uint64_t id, WorkerTraits traits) {
  std::lock_guard lock(mutex_);
  if (Worker* worker = find(id)) worker->view.traits = std::move(traits);
}

void WorkerRegistry::set_model(uint64_t id, std::string model) {
  std::lock_guard lock(mutex_);
  if (Worker* worker = find(id)) worker->view.model = std::move(model);
}

bool WorkerRegistry::sound(const Worker& worker, TimePoint now) const {
  return (!worker.view.breaker_open || now >= worker.retry_at) && worker.view.silence < options_.silence_max / 3;
}

Result<WorkerRegistry::Pair> WorkerRegistry::begin_request(TimePoint now, const std::set<uint64_t>& avoid) {
  std::lock_guard lock(mutex_);
  const auto loads = [&](const std::vector<Worker>& list, bool choosy) {
    std::vector<WorkerLoad> out;
    out.reserve(list.size());
    for (const Worker& worker : list) {
      const bool preferred = sound(worker, now) && !avoid.contains(worker.view.id);
      out.push_back({worker.view.healthy && (preferred || !choosy), worker.view.outstanding});
    }
    return out;
  };
  const auto refused = [&](size_t p, size_t d) {
    return refused_.contains({prefill_[p].view.address.url.authority(), decode_[d].view.address.url.authority()});
  };
  std::optional<PairPolicy::Choice> choice;
  for (const auto& [choosy_prefill, choosy_decode] :
       {std::pair{true, true}, {true, false}, {false, true}, {false, false}}) {
    choice = policy_.choose(loads(prefill_, choosy_prefill), loads(decode_, choosy_decode), refused);
    if (choice) break;
  }
  if (!choice) {
    const auto healthy = [](const std::vector<Worker>& list) {
      return std::count_if(list.begin(), list.end(), [](const Worker& w) { return w.view.healthy; });
    };
    std::string problems;
    for (const auto* list : {&prefill_, &decode_}) {
      for (const Worker& worker : *list) {
        if (!worker.view.problem.empty())
          problems += fmt::format("; {}: {}", worker.view.address.url.authority(), worker.view.problem);
      }
    }
    return error(ErrorCode::kUnavailable,
                 "no pair of instances can serve this: {} of {} prefill and {} of {} decode instances are healthy{}{}",
                 healthy(prefill_), prefill_.size(), healthy(decode_), decode_.size(), problems, refusals_text());
  }
  for (Worker* worker : {&prefill_[choice->prefill], &decode_[choice->decode]}) {
    ++worker->view.outstanding;
    ++worker->view.requests;
  }
  const Worker &p = prefill_[choice->prefill], &d = decode_[choice->decode];
  return Pair{p.view.address, d.view.address, p.view.id, d.view.id};
}

void WorkerRegistry::end_request(const Pair& pair, Blame blame, TimePoint now) {
  std::lock_guard lock(mutex_);
  for (const WorkerAddress* address : {&pair.prefill, &pair.decode}) {
    Worker* worker = find(address->url);
    const uint64_t id = address == &pair.prefill ? pair.prefill_id : pair.decode_id;
    if (worker == nullptr || worker->view.id != id) continue;  // removed meanwhile
    --worker->view.outstanding;
    const bool guilty = blame == (address == &pair.prefill ? Blame::kPrefill : Blame::kDecode);
    if (guilty) {
      ++worker->view.failures;
      if (++worker->failures_in_row >= options_.failures_to_open) {
        worker->view.breaker_open = true;
        worker->retry_at = now + options_.breaker_time;
      }
    } else if (blame == Blame::kNobody) {
      worker->failures_in_row = 0;
      worker->view.breaker_open = false;
    }
  }
}

void WorkerRegistry::forget_pairings(const std::string& authority) {
  std::erase_if(met_, [&](const auto& pair) { return pair.first == authority || pair.second == authority; });
  std::erase_if(refused_,
                [&](const auto& entry) { return entry.first.first == authority || entry.first.second == authority; });
}

// Up or down, it may be another incarnation when it is seen next: what it agreed with others is void, and what failed
// before is not its fault.
void WorkerRegistry::start_anew(Worker* worker) {
  forget_pairings(worker->view.address.url.authority());
  worker->failures_in_row = 0;
  worker->view.breaker_open = false;
}

bool WorkerRegistry::set_health(const http::Url& url, bool healthy, std::string problem) {
  std::lock_guard lock(mutex_);
  Worker* worker = find(url);
  if (worker == nullptr) return false;
  const bool news = healthy != worker->view.healthy;
  if (news) start_anew(worker);
  if (healthy) worker->view.silence = {};
  worker->view.healthy = healthy;
  worker->view.problem = std::move(problem);
  return news;
}

void WorkerRegistry::heard(uint64_t id) {
  std::lock_guard lock(mutex_);
  if (Worker* worker = find(id)) worker->view.silence = {};
}

std::vector<WorkerRegistry::Silent> WorkerRegistry::pass(Duration time) {
  std::lock_guard lock(mutex_);
  std::vector<Silent> silent;
  for (auto* list : {&prefill_, &decode_}) {
    for (Worker& worker : *list) {
      worker.view.silence += time;
      if (worker.view.silence < options_.silence_max) continue;
      const bool fresh = worker.view.healthy;
      if (fresh) {
        worker.view.healthy = false;
        worker.view.problem = fmt::format("nothing was heard from it for {:.1f} s", to_seconds(worker.view.silence));
        start_anew(&worker);
      }
      silent.push_back({worker.view, fresh});
    }
  }
  return silent;
}

void WorkerRegistry::set_pairing(const http::Url& prefill, const http::Url& decode, bool refused, std::string why) {
  std::lock_guard lock(mutex_);
  const std::pair key{prefill.authority(), decode.authority()};
  met_.insert(key);
  if (refused) refused_[key] = std::move(why);
}

std::vector<WorkerView> WorkerRegistry::view() const {
  std::lock_guard lock(mutex_);
  std::vector<WorkerView> out;
  for (const auto* list : {&prefill_, &decode_}) {
    for (const Worker& worker : *list) out.push_back(worker.view);
  }
  return out;
}

std::vector<WorkerRegistry::Pair> WorkerRegistry::unpaired() const {
  std::lock_guard lock(mutex_);
  std::vector<Pair> out;
  for (const Worker& p : prefill_) {
    for (const Worker& d : decode_) {
      const std::pair key{p.view.address.url.authority(), d.view.address.url.authority()};
      if (p.view.healthy && d.view.healthy && !met_.contains(key)) out.push_back({p.view.address, d.view.address});
    }
  }
  return out;
}

bool WorkerRegistry::can_serve(bool met_only) const {
  std::lock_guard lock(mutex_);
  for (const Worker& p : prefill_) {
    for (const Worker& d : decode_) {
      const std::pair key{p.view.address.url.authority(), d.view.address.url.authority()};
      if (p.view.healthy && d.view.healthy && !refused_.contains(key) && (!met_only || met_.contains(key))) return true;
    }
  }
  return false;
}

std::string WorkerRegistry::refusals() const {
  std::lock_guard lock(mutex_);
  return refusals_text();
}

std::string WorkerRegistry::refusals_text() const {
  std::string text;
  for (const auto& [pair, why] : refused_) text += "; " + why;
  return text;
}

}  // namespace baton::router
