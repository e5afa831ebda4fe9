// Server-sent events as a client reads them.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace baton::http {

// Takes a stream of events apart (WHATWG HTML, "Interpreting an event stream"), in whatever pieces its bytes come.
// Names, ids and comments are left out; an event whose blank line has not come is not one yet.
class EventReader {
 public:
  static constexpr size_t kEventBytesMax = size_t{64} << 20;

  // Calls `on_data` with the data of each event that ended, its lines joined by '\n'. kCorrupt: an event of more than
  // kEventBytesMax; read no further then.
  Status read(std::string_view bytes, const std::function<void(std::string_view data)>& on_data);

 private:
  void end_line(const std::function<void(std::string_view data)>& on_data);

  std::string line_, data_;
  bool has_data_ = false;
  bool after_return_ = false;  // a '\n' now belongs to the '\r' before it
};

}  // namespace baton::http
