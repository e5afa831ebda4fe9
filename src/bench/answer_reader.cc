#include "bench/answer_reader.h"

namespace baton::bench {

namespace json = boost::json;

void AnswerReader::on_data(std::string_view bytes, Time now) {
  if (!stream_ || status_ != 200) {
    body_ += bytes;
    return;
  }
  const Status read = events_.read(bytes, [this, now](std::string_view data) {
    if (data == "[DONE]") {
      complete_ = true;
    } else {
      on_event(data, now);
    }
  });
  if (!read) sample_.failure = read.error().message;
}

BenchSample AnswerReader::on_end(const Status& ended, Time now) {
  if (!ended) {
    sample_.failure = ended.error().message;
  } else if (status_ != 200) {
    sample_.failure = fmt::format("HTTP {}: {}", status_, body_.substr(0, 300));
  } else if (!stream_) {
    on_event(body_, now);
    complete_ = true;
  }
  if (sample_.failure.empty() && !complete_) sample_.failure = "the stream ended without [DONE]";
  sample_.ok = sample_.failure.empty();
  sample_.latency_s = std::chrono::duration<double>(now - sent_).count();
  if (!stream_) sample_.ttft_s = sample_.latency_s;
  return std::move(sample_);
}

void AnswerReader::on_event(std::string_view text, Time now) {
  boost::system::error_code bad;
  const json::value event = json::parse(text, bad);
  if (bad || !event.is_object()) {
    sample_.failure = fmt::format("an event is not JSON: {}", text.substr(0, 200));
    return;
  }
  if (const json::value* failure = event.as_object().if_contains("error")) {
    sample_.failure = json::serialize(*failure);
    return;
  }
  const int tokens =
      kind_ == BackendKind::kGenerate ? read_generate(event.as_object()) : read_openai(event.as_object());
  if (tokens < 0) return;  // nothing new in it
  if (!first_seen_) {
    first_seen_ = true;
    sample_.ttft_s = std::chrono::duration<double>(now - sent_).count();
  } else if (tokens > 0) {
    const double each = std::chrono::duration<double>(now - last_).count() / tokens;
    sample_.itl_s.insert(sample_.itl_s.end(), static_cast<size_t>(tokens), each);
  } else {
    return;  // the end of what has been counted
  }
  last_ = now;
}

// New tokens of the event, -1 if it shows none yet: by its text, or by its ids where the server makes no text.
int AnswerReader::read_generate(const json::object& event) {
  const json::value* meta = event.if_contains("meta_info");
  if (meta == nullptr || !meta->is_object()) return -1;
  if (const json::value* parts = meta->as_object().if_contains("ttft_parts_ms");
      parts != nullptr && parts->is_object()) {
    for (const auto& [name, ms] : parts->as_object()) {
      if (ms.is_number()) sample_.ttft_parts[std::string(name)] = ms.to_number<double>();
    }
  }
  const json::value* total = meta->as_object().if_contains("completion_tokens");
  if (total == nullptr || !total->is_number()) return -1;
  sample_.output_tokens = total->to_number<int>();
  const json::value* text = event.if_contains("text");
  const json::value* ids = event.if_contains("output_ids");
  if (text != nullptr && text->is_string()) text_ = std::string(text->as_string());
  const bool has_text = text != nullptr && text->is_string() && !text->as_string().empty();
  const bool has_ids =
      (text == nullptr || !text->is_string()) && ids != nullptr && ids->is_array() && !ids->as_array().empty();
  if (!has_text && !has_ids) return -1;
  return sample_.output_tokens - std::exchange(counted_, sample_.output_tokens);
}

int AnswerReader::read_openai(const json::object& event) {
  if (const json::value* usage = event.if_contains("usage"); usage != nullptr && usage->is_object()) {
    if (const json::value* n = usage->as_object().if_contains("completion_tokens"); n != nullptr && n->is_number())
      sample_.output_tokens = n->to_number<int>();
  }
  const json::value* choices = event.if_contains("choices");
  if (choices == nullptr || !choices->is_array() || choices->as_array().empty() ||
      !choices->as_array().front().is_object())
    return -1;
  const json::object& choice = choices->as_array().front().as_object();
  const json::value* text = choice.if_contains("text");
  for (const char* holder : {"delta", "message"}) {
    if (const json::value* inner = choice.if_contains(holder); inner != nullptr && inner->is_object())
      text = inner->as_object().if_contains("content");
  }
  if (text == nullptr || !text->is_string() || text->as_string().empty()) return -1;
  text_ += std::string_view(text->as_string());
  return 1;
}

}  // namespace baton::bench
