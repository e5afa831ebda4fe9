#include "http/connection_table.h"

#include <boost/asio/post.hpp>

namespace baton::http {

using boost::asio::ip::tcp;

ConnectionTable::Place::Place(ConnectionTable& table, tcp::socket& socket) : table_(table) {
  std::lock_guard lock(table_.mutex_);
  id_ = ++table_.last_;
  table_.entries_[id_].socket = &socket;
}

ConnectionTable::Place::~Place() {
  serve_request();
  std::lock_guard lock(table_.mutex_);
  table_.entries_.erase(id_);
}

bool ConnectionTable::Place::wait_for_request(bool first) {
  std::lock_guard lock(table_.mutex_);
  if (table_.draining_ && !first) return false;
  Entry& entry = table_.entries_.at(id_);
  entry.resting = !first;
  entry.turn = ++table_.last_;
  table_.waiting_[entry.turn] = id_;
  return true;
}

void ConnectionTable::Place::hear_request() {
  std::lock_guard lock(table_.mutex_);
  table_.entries_.at(id_).resting = false;
}

void ConnectionTable::Place::serve_request() {
  std::lock_guard lock(table_.mutex_);
  Entry& entry = table_.entries_.at(id_);
  table_.waiting_.erase(entry.turn);
  entry.turn = 0;
}

size_t ConnectionTable::size() const {
  std::lock_guard lock(mutex_);
  return entries_.size();
}

void ConnectionTable::shut_down(uint64_t id, Entry& entry, tcp::socket::shutdown_type what) {
  boost::asio::post(entry.socket->get_executor(), [this, id, what] {
    tcp::socket* socket = nullptr;
    {
      std::lock_guard lock(mutex_);
      const auto found = entries_.find(id);
      if (found != entries_.end()) socket = found->second.socket;
    }
    boost::system::error_code ignored;
    if (socket != nullptr) socket->shutdown(what, ignored);
  });
}

bool ConnectionTable::end_longest_waiting() {
  std::lock_guard lock(mutex_);
  if (waiting_.empty()) return false;
  const uint64_t id = waiting_.begin()->second;
  waiting_.erase(waiting_.begin());
  Entry& entry = entries_.at(id);
  entry.turn = 0;
  shut_down(id, entry, tcp::socket::shutdown_both);
  return true;
}

void ConnectionTable::drain() {
  std::lock_guard lock(mutex_);
  draining_ = true;
  // What has come already is still read and answered.
  for (auto& [id, entry] : entries_) {
    if (entry.resting) shut_down(id, entry, tcp::socket::shutdown_receive);
  }
}

void ConnectionTable::end_all() {
  std::unordered_set<std::shared_ptr<HttpAnswer>> incomplete;  // their timers end before the context does
  std::lock_guard lock(mutex_);
  incomplete.swap(answers_);
  boost::system::error_code ignored;
  for (auto& [id, entry] : entries_) entry.socket->shutdown(tcp::socket::shutdown_both, ignored);
}

void ConnectionTable::insert(std::shared_ptr<HttpAnswer> answer) {
  std::lock_guard lock(mutex_);
  answers_.insert(std::move(answer));
}

void ConnectionTable::erase(const std::shared_ptr<HttpAnswer>& answer) {
  std::lock_guard lock(mutex_);
  answers_.erase(answer);
}

std::vector<std::shared_ptr<HttpAnswer>> ConnectionTable::answers() const {
  std::lock_guard lock(mutex_);
  return {answers_.begin(), answers_.end()};
}

size_t ConnectionTable::answers_under_way() const {
  std::lock_guard lock(mutex_);
  return answers_.size();
}

}  // namespace baton::http
