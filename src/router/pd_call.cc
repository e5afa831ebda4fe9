#include "router/pd_call.h"

#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/random.h"
#include "http/api_error.h"
#include "http/api_request.h"
#include "http/json.h"
#include "http/load_report.h"
#include "router/fan_out.h"
#include "router/split_request.h"

namespace baton::router {

using http::Headers;

namespace {

using Event = RouterMetrics::Event;

constexpr size_t kHeldBytesMax = 16u << 20;  // of a stream's answer, waiting for the end of an event
constexpr Duration kLetBe = std::chrono::seconds(30);
// What an instance may take is the call's time limit; whether it lives is the probe's business.
constexpr std::chrono::hours kNeverIdle{24 * 365};

bool worth_retrying(int status) {
  return status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

// One try. Callbacks come from the client's threads, the writer's calls from anywhere; the call's own strand
// (writer->post) orders them, so that members need no lock.
class PdCall : public std::enable_shared_from_this<PdCall> {
 public:
  PdCall(const PdCallContext& context, http::Exchange x, RequestTraits traits, std::string common_body,
         std::shared_ptr<http::LiveNames::Hold> names)
      : context_(context),
        request_(std::move(x.request)),
        body_(std::make_shared<const std::string>(std::move(common_body))),
        writer_(std::move(x.writer)),
        echo_(std::move(x.headers)),
        traits_(traits),
        names_(std::move(names)),
        arrival_(context_.clock.now()),
        deadline_(context.request_timeout > Duration(0) ? arrival_ + context.request_timeout : OpenCalls::kNoDeadline) {
  }

  void run() {
    context_.metrics.count(Event::kRequest);
    if (traits_.sequences > http::kChoicesMax)
      return refuse(400, fmt::format("n: {} sequences; at most {} a call", traits_.sequences, http::kChoicesMax));
    writer_->on_disconnect([self = shared_from_this()] {
      self->writer_->post([self] {
        if (self->over_) return;
        self->context_.metrics.count(Event::kClientLeft);
        self->finish(WorkerRegistry::Blame::kNobody);
      });
    });
    if (const Status sent = attempt(); !sent) refuse(503, sent.error().message);
  }

 private:
  struct Leg {
    uint64_t worker = 0;
    std::shared_ptr<http::HttpCall> call;
    int status = 0;  // 0: no head yet
    Headers headers;
    std::string body;    // what has come and was not passed on
    size_t unended = 0;  // bytes of it in which no event ends
    bool ended = false;
  };

  // Sends both legs to a pair, at best one that has not failed this call. kUnavailable: there is none, nothing is sent.
  Status attempt() {
    auto pair = context_.registry.begin_request(context_.clock.now(), failed_);
    if (!pair) return pair.error();
    ++attempt_;
    open_ = false;
    pair_ = *pair;
    std::vector<AttemptId> rooms;
    for (size_t i = 0; i < traits_.sequences; ++i) rooms.push_back(draw_attempt());
    room_ = rooms.front();
    const std::string body_end =
        pair_body_end(*body_, traits_, pair_->prefill.meeting_host(), pair_->prefill.bootstrap_port, rooms);
    prefill_ = {};
    decode_ = {};
    prefill_.worker = pair_->prefill_id;
    decode_.worker = pair_->decode_id;
    open_call_ = context_.calls.add({prefill_.worker, decode_.worker}, deadline_,
                                    [weak = weak_from_this(), attempt = attempt_](uint64_t worker, const Error& why) {
                                      const auto self = weak.lock();
                                      if (!self) return;
                                      self->writer_->post([self, attempt, worker, why] {
                                        if (attempt == self->attempt_ && !self->over_) self->on_lost(worker, why);
                                      });
                                    });
    prefill_.call = post(pair_->prefill.url, body_end, &PdCall::prefill_);
    decode_.call = post(pair_->decode.url, body_end, &PdCall::decode_);
    sent_ = context_.clock.now();
    return {};
  }

  std::shared_ptr<http::HttpCall> post(const http::Url& url, const std::string& body_end, Leg PdCall::*leg) {
    http::HttpCallRequest call;
    call.url = url;
    call.method = "POST";
    call.target = url.path + request_.path;
    call.shared_body = body_;
    call.body = body_end;
    // What a stream holds back is counted as it comes: its answer as a whole may be long.
    if (traits_.stream) call.answer_bytes_max = std::nullopt;
    call.headers = {{"Content-Type", "application/json"}};
    call.idle_timeout = kNeverIdle;
    for (const char* name : kPassedOn) {
      if (const auto value = http::find_header(request_.headers, name); !value.empty())
        call.headers.emplace_back(name, std::string(value));
    }
    http::HttpCallHandlers handlers;
    const auto deliver = [self = shared_from_this(), leg, attempt = attempt_](auto work) {
      self->writer_->post([self, leg, attempt, work = std::move(work)]() mutable {
        if (attempt == self->attempt_ && !self->over_) work(*self, self.get()->*leg);
      });
    };
    const auto heard = [&registry = context_.registry, worker = (this->*leg).worker] { registry.heard(worker); };
    handlers.on_head = [deliver, heard](int status, const Headers& headers) {
      heard();
      deliver([status, headers](PdCall& self, Leg& mine) { self.on_head(mine, status, headers); });
    };
    handlers.on_data = [deliver, heard](std::string_view bytes) {
      heard();
      deliver([data = std::string(bytes)](PdCall& self, Leg& mine) { self.on_data(mine, data); });
    };
    handlers.on_end = [deliver](const Status& status) {
      deliver([status](PdCall& self, Leg& mine) { self.on_end(mine, status); });
    };
    return context_.client.start(std::move(call), std::move(handlers));
  }

  void on_head(Leg& leg, int status, const Headers& headers) {
    leg.status = status;
    leg.headers = headers;
    progress();
  }

  void on_data(Leg& leg, const std::string& data) {
    leg.body += data;
    if (&leg == &decode_) progress();
    if (!traits_.stream || over_ || leg.body.size() <= kHeldBytesMax) return;
    if (leg.call) leg.call->cancel();
    on_end(leg, error(ErrorCode::kResourceExhausted, "an event of its answer is over {} bytes", kHeldBytesMax));
  }

  void on_end(Leg& leg, const Status& status) {
    leg.ended = true;
    const bool is_prefill = &leg == &prefill_;
    if (!status || leg.status != 200) {
      // Once decode speaks, the prefill leg has done its work, whatever becomes of its answer.
      if (is_prefill && open_) return;
      return fail(is_prefill, status);
    }
    progress();
  }

  // The router has given a worker up, or the whole call (worker 0).
  void on_lost(uint64_t worker, const Error& why) {
    if (worker == 0)
      return give_up(http::http_status(why.code), why.message, fmt::format("failed; leg=none; tries={}", attempt_));
    const bool is_prefill = worker == prefill_.worker;
    if (is_prefill && (open_ || prefill_.ended)) return;  // it has done its work
    fail(is_prefill, why);
  }

  [[nodiscard]] Headers answer_headers() const {
    Headers headers = echo_;
    for (const char* name : {"Content-Type", "Cache-Control", http::kLoadHeader}) {
      if (const auto value = http::find_header(decode_.headers, name); !value.empty())
        headers.emplace_back(name, std::string(value));
    }
    headers.emplace_back("x-baton-verdict", fmt::format("disaggregated; prefill={}; decode={}; attempt={}; tries={}",
                                                        pair_->prefill.url.authority(), pair_->decode.url.authority(),
                                                        room_.value(), attempt_));
    headers.emplace_back("x-baton-router-ms", fmt::format("{:.3f}", to_ms(sent_ - arrival_)));
    return headers;
  }

  // Passes on what there is of decode's answer, which is complete by itself.
  void progress() {
    if (!open_) {
      if (decode_.status != 200) return;
      open_ = true;
      if (traits_.stream) {
        drop_body();  // no other try
        context_.metrics.on_answer(sent_ - arrival_);
        writer_->start(200, answer_headers());
      }
    }
    if (traits_.stream) pass_events();
    if (!decode_.ended) return;
    free_names();
    if (traits_.stream) {
      writer_->write(std::move(decode_.body));
      writer_->finish();
    } else {
      context_.metrics.on_answer(sent_ - arrival_);
      writer_->send(200, answer_headers(), std::move(decode_.body));
    }
    // A prefill leg that is still sending its small answer is let be for a while: cancelling it would look like a
    // client that left. The client keeps it until it ends.
    if (!prefill_.ended) {
      context_.calls.add({prefill_.worker}, context_.clock.now() + kLetBe,
                         [leg = std::weak_ptr(std::exchange(prefill_.call, nullptr))](uint64_t, const Error&) {
                           if (const auto living = leg.lock()) living->cancel();
                         });
    }
    finish(WorkerRegistry::Blame::kNobody);
  }

  // Whole events only: an answer that breaks off within one must still end in one that says so.
  void pass_events() {
    constexpr std::string_view kEnd = "\n\n";
    const size_t from = decode_.unended == 0 ? 0 : decode_.unended - 1;  // an end may have come in two parts
    const size_t last = std::string_view(decode_.body).substr(from).rfind(kEnd);
    decode_.unended = decode_.body.size();
    if (last == std::string_view::npos) return;
    std::string events = decode_.body.substr(0, from + last + kEnd.size());
    decode_.body.erase(0, events.size());
    decode_.unended = decode_.body.size();
    if (events.ends_with("data: [DONE]\n\n")) free_names();
    writer_->write(std::move(events));
  }

  void fail(bool prefill_failed, const Status& status) {
    const Leg& leg = prefill_failed ? prefill_ : decode_;
    const bool said = leg.ended && status && leg.status != 200;  // what is wrong, by itself
    const int code = said ? leg.status : !status && status.error().code == ErrorCode::kDeadlineExceeded ? 504 : 502;
    // What the client got wrong is no failure of a worker.
    if (code >= 500) context_.metrics.count(prefill_failed ? Event::kPrefillError : Event::kDecodeError);
    const std::string who = prefill_failed ? "prefill" : "decode";
    using Blame = WorkerRegistry::Blame;
    // "Unavailable" and "timed out" are what an instance says of a peer that did not come as well as of itself.
    const Blame blame = code < 500                   ? Blame::kNobody
                        : code == 503 || code == 504 ? Blame::kUnclear
                        : prefill_failed             ? Blame::kPrefill
                                                     : Blame::kDecode;
    const bool either = said && blame == Blame::kUnclear;
    if (prefill_failed || either) failed_.insert(pair_->prefill_id);
    if (!prefill_failed || either) failed_.insert(pair_->decode_id);
    const std::string text = fmt::format("the {} instance cannot be reached or broke off: {}", who,
                                         status ? "it answered " + std::to_string(leg.status) : status.error().message);
    const std::string verdict = fmt::format("failed; leg={}; tries={}", who, attempt_);
    if (seen()) return give_up(code, text, verdict, blame);
    if (worth_retrying(code) && attempt_ < context_.attempts_max) {
      release(blame);
      if (attempt()) return context_.metrics.count(Event::kRetry);
    }
    if (!said) return give_up(code, text, verdict, blame);
    free_names();
    Headers headers = echo_;
    headers.emplace_back("x-baton-verdict", verdict);
    for (const char* name : {"Content-Type", "Retry-After", "x-should-retry"}) {
      if (const auto value = http::find_header(leg.headers, name); !value.empty())
        headers.emplace_back(name, std::string(value));
    }
    writer_->send(leg.status, headers, leg.body);
    finish(blame);
  }

  // The client has a part of the answer: only an error event can follow.
  [[nodiscard]] bool seen() const { return open_ && traits_.stream; }

  void give_up(int status, const std::string& message, const std::string& verdict,
               WorkerRegistry::Blame blame = WorkerRegistry::Blame::kUnclear) {
    free_names();
    if (seen()) {  // never a silent end (S7)
      context_.metrics.count(Event::kStreamError);
      writer_->write("data: " + http::error_json(status, message) + "\n\ndata: [DONE]\n\n");
      writer_->finish();
    } else {
      Headers headers = echo_;
      headers.emplace_back("x-baton-verdict", verdict);
      http::send_error(*writer_, status, message, headers);
    }
    finish(blame);
  }

  // Before the client can know the end: it may use them again at once. All tries of the call share them.
  void free_names() {
    if (names_) names_->release();
  }

  void drop_body() {
    body_.reset();
    request_.drop_body();
  }

  void refuse(int status, const std::string& message) {
    free_names();
    Headers headers = echo_;
    headers.emplace_back("x-baton-verdict", fmt::format("refused; tries={}", attempt_));
    http::send_error(*writer_, status, message, headers);
    over_ = true;
  }

  // Ends this try: what still runs of it is cancelled.
  void release(WorkerRegistry::Blame blame) {
    if (!pair_) return;
    context_.calls.remove(open_call_);
    for (Leg* leg : {&prefill_, &decode_}) {
      if (leg->call && !leg->ended) leg->call->cancel();
      leg->call.reset();
    }
    context_.registry.end_request(*pair_, blame, context_.clock.now());
    pair_.reset();
  }
  void finish(WorkerRegistry::Blame blame) {
    if (over_) return;
    over_ = true;
    free_names();
    release(blame);
    drop_body();
  }

  const PdCallContext context_;
  http::HttpRequest request_;
  std::shared_ptr<const std::string> body_;  // common_body(), until there can be no other try
  const std::shared_ptr<http::ResponseWriter> writer_;
  const Headers echo_;
  const RequestTraits traits_;
  const std::shared_ptr<http::LiveNames::Hold> names_;
  const TimePoint arrival_;
  const TimePoint deadline_;
  TimePoint sent_{};
  std::optional<WorkerRegistry::Pair> pair_;
  uint64_t open_call_ = 0;  // of this try
  AttemptId room_;
  std::set<uint64_t> failed_;  // workers that failed a try of this call, or may have
  int attempt_ = 0;            // tries so far
  Leg prefill_, decode_;
  bool open_ = false;  // decode's answer is being passed on
  bool over_ = false;
};

}  // namespace

void start_pd_call(PdCallContext context, http::Exchange x) {
  auto body = http::parse_object(x.request.body);
  if (!body) {
    x.headers.emplace_back("x-baton-verdict", "refused; tries=0");
    return x.refuse(body.error());
  }
  std::shared_ptr<http::LiveNames::Hold> names;
  if (auto named = names_in(x.request.path, *body); !named.empty()) {
    auto claimed = context.names.claim(std::move(named));
    if (!claimed) {
      x.headers.emplace_back("x-baton-verdict", "refused; tries=0");
      return x.refuse(claimed.error());
    }
    names = std::move(*claimed);
  }
  std::string().swap(x.request.body);  // its share stays taken: the parsed one is kept
  if (x.request.path == "/invocations") {
    const auto kind = http::invoked_kind(*body);
    if (!kind) {
      x.headers.emplace_back("x-baton-verdict", "refused; tries=0");
      return x.refuse(kind.error());
    }
    x.request.path = *kind == http::ApiKind::kChat ? "/v1/chat/completions" : "/v1/completions";
  }
  const RequestTraits traits = inspect_request(x.request.path, *body);
  const auto writer = x.writer;
  const auto call =
      std::make_shared<PdCall>(context, std::move(x), traits, common_body(std::move(*body)), std::move(names));
  writer->post([call] { call->run(); });
}

}  // namespace baton::router
