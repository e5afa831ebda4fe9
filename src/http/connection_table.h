// The connections of a server: who is there, and who can be let go when there are too many.
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "http/answer.h"

namespace baton::http {

// Thread safe. Outlives its places.
class ConnectionTable {
 public:
  // A connection's place. Used on the socket's strand.
  class Place {
   public:
    Place(ConnectionTable& table, boost::asio::ip::tcp::socket& socket);  // waits for a request
    ~Place();
    Place(const Place&) = delete;
    Place& operator=(const Place&) = delete;
    // From now on the client is to send a request. False: it gets no further one, as the server drains.
    [[nodiscard]] bool wait_for_request(bool first);
    void hear_request();   // the first bytes of one are here
    void serve_request();  // a whole one is here

   private:
    ConnectionTable& table_;
    uint64_t id_ = 0;
  };

  [[nodiscard]] size_t size() const;
  // Ends the connection that has waited longest for a request, whoever should be sending it. False: every one is being
  // served.
  bool end_longest_waiting();
  // From now on no connection gets a further request, and those that rest between two are closed.
  void drain();
  [[nodiscard]] const std::atomic<bool>& draining() const { return draining_; }
  // Ends every connection. Only when no thread runs the connections any more.
  void end_all();

  void insert(std::shared_ptr<HttpAnswer> answer);
  void erase(const std::shared_ptr<HttpAnswer>& answer);
  [[nodiscard]] std::vector<std::shared_ptr<HttpAnswer>> answers() const;
  [[nodiscard]] size_t answers_under_way() const;

 private:
  struct Entry {
    boost::asio::ip::tcp::socket* socket;
    uint64_t turn = 0;     // in waiting_; 0: being served
    bool resting = false;  // between two requests
  };
  // Shuts the socket down on its strand, where nobody else touches it and its place cannot go meanwhile.
  void shut_down(uint64_t id, Entry& entry, boost::asio::ip::tcp::socket::shutdown_type what);

  std::atomic<bool> draining_{false};
  mutable std::mutex mutex_;                                 // of what follows
  std::map<uint64_t, Entry> entries_;                        // by id
  std::map<uint64_t, uint64_t> waiting_;                     // turns to ids, oldest first
  uint64_t last_ = 0;                                        // id or turn given out
  std::unordered_set<std::shared_ptr<HttpAnswer>> answers_;  // not complete
};

}  // namespace baton::http
