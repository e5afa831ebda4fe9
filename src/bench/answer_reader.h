// One request's answer, taken apart as it comes, with the definitions of SGLang's bench_serving.
#pragma once

#include <boost/json.hpp>
#include <chrono>
#include <string>
#include <string_view>

#include "base/result.h"
#include "bench/bench_report.h"
#include "http/event_reader.h"

namespace baton::bench {

enum class BackendKind : uint8_t { kGenerate, kCompletions, kChat };

class AnswerReader {
 public:
  using Time = std::chrono::steady_clock::time_point;

  AnswerReader(BackendKind kind, bool stream, Time sent, int prompt_tokens)
      : kind_(kind), stream_(stream), sent_(sent), last_(sent) {
    sample_.prompt_tokens = prompt_tokens;
  }

  void on_head(int status) { status_ = status; }
  void on_data(std::string_view bytes, Time now);
  // What was measured. An answer that is complete and has no text is no failure: its tokens may spell none.
  BenchSample on_end(const Status& ended, Time now);
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  void on_event(std::string_view text, Time now);
  int read_generate(const boost::json::object& event);
  int read_openai(const boost::json::object& event);

  const BackendKind kind_;
  const bool stream_;
  const Time sent_;
  Time last_;
  int status_ = 0;
  bool first_seen_ = false, complete_ = false;
  int counted_ = 0;   // tokens that ITL knows of
  std::string body_;  // of an answer that is no stream
  std::string text_;  // that the model made
  http::EventReader events_;
  BenchSample sample_;
};

}  // namespace baton::bench
