#include "http/event_reader.h"

#include <algorithm>

namespace baton::http {

Status EventReader::read(std::string_view bytes, const std::function<void(std::string_view data)>& on_data) {
  if (after_return_ && bytes.starts_with('\n')) bytes.remove_prefix(1);
  if (!bytes.empty()) after_return_ = false;
  for (size_t end; (end = bytes.find_first_of("\r\n")) != std::string_view::npos;) {
    line_ += bytes.substr(0, end);
    const bool two = bytes.substr(end).starts_with("\r\n");
    after_return_ = bytes[end] == '\r' && end + 1 == bytes.size();
    bytes.remove_prefix(end + (two ? 2 : 1));
    end_line(on_data);
  }
  line_ += bytes;
  if (line_.size() + data_.size() <= kEventBytesMax) return {};
  *this = {};
  return error(ErrorCode::kCorrupt, "an event of more than {} bytes came", kEventBytesMax);
}

void EventReader::end_line(const std::function<void(std::string_view data)>& on_data) {
  std::string_view line = line_;
  if (line.empty() && has_data_) {
    on_data(data_);
    data_.clear();
    has_data_ = false;
  } else if (line == "data" || line.starts_with("data:")) {
    line.remove_prefix(std::min<size_t>(line.size(), 5));
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += line;
    has_data_ = true;
  }
  line_.clear();
}

}  // namespace baton::http
