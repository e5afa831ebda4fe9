// baton chat: a conversation in the terminal with any server that speaks OpenAI's chat completions, or with a cluster
// that is started for it.
#include <limits>
#include <memory>
#include <optional>

#include "chat_session.h"
#include "chat_terminal.h"
#include "cluster.h"
#include "cluster_flags.h"
#include "command_line.h"
#include "commands.h"
#include "exit_code.h"
#include "text/utf8.h"

namespace baton::apps {
namespace {

struct Flags {
  ClusterFlags cluster;
  ChatOptions chat;
  std::string base_url;
};

constexpr std::string_view kHelp =
    "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer; a line that ends in \\ goes on "
    "in "
    "the next";

std::string in_bytes(double bytes) {
  return bytes < 1e6 ? fmt::format("{:.0f} kB", bytes / 1e3) : fmt::format("{:.1f} MB", bytes / 1e6);
}

class Chat {
 public:
  // `cluster` is null if the server is not ours to watch.
  Chat(ChatSession& session, SignalWait& signals, Cluster* cluster)
      : session_(session), signals_(signals), cluster_(cluster), input_(signals) {}

  // Until the input ends, /exit or SIGTERM. An error only if nothing more can be said.
  Status run();

 private:
  Status take_line(const std::string& line);
  Status ask(const std::string& message);
  void note_answer(const ChatAnswer& answer);
  [[nodiscard]] Status server_lives() { return cluster_ == nullptr ? Status() : cluster_->find_dead(); }

  ChatSession& session_;
  SignalWait& signals_;
  Cluster* const cluster_;
  TypedLines input_;
  ChatOutput output_;
  bool leaving_ = false, stopped_ = false;
  double bytes_before_ = 0;  // of KV, when the last answer was asked for
};

Status Chat::run() {
  if (input_.is_terminal()) output_.note(fmt::format("{}: {}", session_.model(), kHelp));
  bytes_before_ = session_.transferred_bytes().value_or(0);
  while (!leaving_) {
    if (input_.is_terminal()) output_.prompt();
    const TypedLines::Event event = input_.next();
    if (event.kind == TypedLines::Kind::kEnd) break;
    if (event.kind == TypedLines::Kind::kTooLong)
      return error(ErrorCode::kInvalidArgument, "a line of more than {} bytes", TypedLines::kLineBytesMax);
    if (event.kind == TypedLines::Kind::kLine) {
      BATON_TRY(take_line(event.line));
    } else if (event.signal == SIGINT && input_.is_terminal()) {
      output_.note("\nCtrl-D or /exit leaves");
    } else {
      leaving_ = event.signal != SIGCHLD;
      BATON_TRY(server_lives());
    }
    if (output_.failed()) return error(ErrorCode::kCancelled, "standard output takes no more");
  }
  if (input_.is_terminal()) output_.note("");
  return {};
}

Status Chat::take_line(const std::string& line) {
  if (line.find_first_not_of(" \t\n") == std::string::npos) return {};
  if (line == "/exit" || line == "/quit" || line == "/bye") {
    leaving_ = true;
  } else if (line == "/reset") {
    session_.reset();
    output_.note("forgotten");
  } else if (line.starts_with('/') && line.find_first_of(" /", 1) == std::string::npos) {
    output_.note(std::string(kHelp));
  } else if (!text::is_valid_utf8(line)) {
    output_.note("that line is not UTF-8 and was not sent");
  } else {
    return ask(line);
  }
  return {};
}

// What goes wrong with one answer is said, and a person may try again; a script is not to go on without it.
Status Chat::ask(const std::string& message) {
  stopped_ = false;
  bool line_open = false;
  const auto show = [this, &line_open](std::string_view text) {
    output_.answer(text);
    line_open = !text.ends_with('\n');
  };
  const auto stop = [this] {
    if (const int signal = signals_.wait(Duration::zero()); signal == SIGINT || signal == SIGTERM) {
      stopped_ = true;
      leaving_ = signal == SIGTERM || !input_.is_terminal();
    }
    return stopped_ || output_.failed() || !server_lives();
  };
  const Result<ChatAnswer> answer = session_.say(message, show, stop);
  if (line_open) output_.answer("\n");
  BATON_TRY(server_lives());
  if (answer) {
    note_answer(*answer);
    return {};
  }
  if (!input_.is_terminal()) return answer.error();
  output_.note(answer.error().message);
  return {};
}

void Chat::note_answer(const ChatAnswer& answer) {
  if (answer.first_text_s == 0) return output_.note(stopped_ ? "[stopped]" : "[no text]");
  std::string line = fmt::format("[first token {:.0f} ms", answer.first_text_s * 1e3);
  if (answer.disaggregated) {
    const double bytes = session_.transferred_bytes().value_or(bytes_before_);
    if (bytes > bytes_before_) line += fmt::format(", {} of KV handed over", in_bytes(bytes - bytes_before_));
    if (answer.transfer_ms && bytes > bytes_before_)
      line += fmt::format(" ({:.1f} ms of the wait)", *answer.transfer_ms);
    bytes_before_ = bytes;
  }
  if (answer.prompt_tokens > 0) line += fmt::format("; {} prompt tokens", answer.prompt_tokens);
  if (answer.cached_tokens > 0) line += fmt::format(" ({} cached)", answer.cached_tokens);
  if (answer.completion_tokens > 0) line += fmt::format("; {} tokens", answer.completion_tokens);
  const double seconds = answer.last_text_s - answer.first_text_s;
  if (answer.completion_tokens > 1 && seconds > 0)
    line += fmt::format(", {:.1f} a second", static_cast<double>(answer.completion_tokens - 1) / seconds);
  if (stopped_) line += "; stopped";
  if (answer.finish_reason == "length") line += "; cut off by --max-tokens";
  output_.note(line + "]");
}

Result<http::Url> url_of(const Flags& flags) {
  if (flags.base_url.empty()) return http::Url{flags.cluster.host, flags.cluster.port, ""};
  BATON_ASSIGN(http::Url url, http::parse_url(flags.base_url));
  // OpenAI's clients are given the URL with its version.
  if (url.path.ends_with("/v1")) url.path.resize(url.path.size() - 3);
  return url;
}

// Errors alone: the screen is the conversation's.
Result<Cluster> start_cluster(ClusterFlags& flags, SignalWait& signals) {
  default_log_level(flags, "error");
  flags.serve.emplace_back("--enable-cache-report");  // shown behind each answer
  BATON_ASSIGN(ClusterOptions options, cluster_options(flags));
  return Cluster::start(std::move(options), signals);
}

int run_chat(const CLI::App& app, Flags& flags) {
  SignalWait signals;
  log_init(LogLevel::kWarning, "chat");
  if (!text::is_valid_utf8(flags.chat.system)) return fail(app, kExitUsage, "--system is not UTF-8");
  std::optional<Cluster> cluster;
  if (!flags.cluster.model_path.empty()) {
    if (!flags.base_url.empty()) return fail(app, kExitUsage, "give either --base-url or --model-path");
    auto started = start_cluster(flags.cluster, signals);
    if (!started) return fail(app, started.error());
    cluster.emplace(std::move(*started));
    flags.cluster.port = cluster->port();
    fmt::print(stderr, "{}  OpenAI API: http://{}/v1\n", cluster->summary(),
               http::Url{flags.cluster.host, cluster->port(), ""}.authority());
  }
  auto url = url_of(flags);
  if (!url) return fail(app, url.error());
  flags.chat.url = *url;
  ChatSession session(flags.chat);
  Status status = session.connect();
  if (status) status = Chat(session, signals, cluster ? &*cluster : nullptr).run();
  if (cluster) cluster->stop();
  return status ? kExitOk : fail(app, status.error());
}

}  // namespace

Subcommand add_chat(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand(
      "chat", "Talk in the terminal with a server, or with a cluster that is started for it (--model-path)");
  auto flags = std::make_shared<Flags>();
  add_cluster_flags(*app, flags->cluster);
  app->get_option("--model-path")->required(false);
  ChatOptions& c = flags->chat;
  app->add_option("--base-url", flags->base_url,
                  "Of any server that speaks OpenAI's API, with or without /v1; in place of --host and --port");
  app->get_option("--served-model-name")
      ->description("The model's name; of a server at --base-url, the first that it lists if this is not given");
  app->add_option("--system", c.system, "System prompt");
  app->add_option("--max-tokens", c.max_tokens, "New tokens of an answer")
      ->transform(number_from(1, 1 << 24))
      ->take_last();
  app->add_option("--temperature", c.temperature, "As of the server if it is not given; 0: greedy")
      ->transform(number_from(0.0, 100.0))
      ->take_last();
  app->add_option("--top-p", c.top_p, "As of the server if it is not given")
      ->transform(number_from(0.0, 1.0))
      ->take_last();
  app->add_option("--seed", c.seed, "Of sampling")
      ->transform(number_from<int64_t>(0, std::numeric_limits<int64_t>::max()))
      ->take_last();
  return {app, [app, flags] {
            if (const CLI::Option* key = app->get_option("--api-key"); key->count() > 0)
              flags->chat.api_key = key->as<std::string>();
            if (const CLI::Option* name = app->get_option("--served-model-name"); name->count() > 0)
              flags->chat.model = name->as<std::string>();
            if (!flags->cluster.model_path.empty() && app->get_option("--port")->count() == 0) flags->cluster.port = 0;
            return run_chat(*app, *flags);
          }};
}

}  // namespace baton::apps
