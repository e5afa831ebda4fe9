// baton demo: starts a cluster, asks it three questions, and shows where the time and the bytes went.
#include <boost/json.hpp>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cluster.h"
#include "cluster_flags.h"
#include "commands.h"
#include "exit_code.h"
#include "http/client.h"
#include "http/json.h"
#include "model/json_fields.h"
#include "transfer_bytes.h"

namespace baton::apps {
namespace {

namespace json = boost::json;

struct Flags {
  ClusterFlags cluster;
  bool keep = false;
};

struct Question {
  std::string title;
  std::string text;
  std::string answer;     // what the reference implementation answered
  bool complete = false;  // it is all of it, not the beginning
};

// Chat prompts of the model's golden file: a story, a sum, and the longest, a note book of stories with pass keys in
// it.
Result<std::vector<Question>> golden_questions(const std::string& model_path) {
  constexpr std::string_view kUser = "<｜User｜>", kAssistant = "<｜Assistant｜>", kEnd = "<｜end▁of▁sentence｜>";
  const std::string path = model_path + "/golden.json";
  BATON_ASSIGN(const json::object golden, model::read_json_object(path));
  Question story, sum, notebook;
  const json::value* cases = golden.if_contains("cases");
  if (cases == nullptr || !cases->is_array()) return error(ErrorCode::kCorrupt, "{}: no cases", path);
  for (const json::value& entry : cases->get_array()) {
    if (!entry.is_object()) continue;
    const json::value* asked = entry.get_object().if_contains("prompt");
    const json::value* answered = entry.get_object().if_contains("greedy_text");
    if (asked == nullptr || !asked->is_string() || answered == nullptr || !answered->is_string() ||
        answered->get_string().empty())
      return error(ErrorCode::kCorrupt, "{}: a case without prompt or greedy_text", path);
    // Only what the user said: the chat template puts the markers back.
    std::string prompt(asked->get_string());
    const size_t begin = prompt.find(kUser), end = prompt.rfind(kAssistant);
    if (begin == std::string::npos || end == std::string::npos) continue;
    prompt = prompt.substr(begin + kUser.size(), end - begin - kUser.size());
    std::string answer(answered->get_string());
    const bool complete = answer.ends_with(kEnd);
    if (complete) answer.resize(answer.size() - kEnd.size());
    if (prompt.starts_with("Tell me a story")) story = {"A story", prompt, answer, complete};
    if (prompt.starts_with("What is ") && prompt.find(" + ") != std::string::npos)
      sum = {"A sum", prompt, answer, complete};
    if (prompt.size() > notebook.text.size()) notebook = {"A pass key in a long text", prompt, answer, complete};
  }
  if (story.text.empty() || sum.text.empty()) {
    return error(ErrorCode::kNotFound,
                 "{} does not hold the demo's questions; it asks the bundled models (models/tiny-mla, models/tiny-gqa)",
                 path);
  }
  return std::vector<Question>{story, sum, notebook};
}

std::string shortened(const std::string& text) {
  return text.size() <= 160 ? text : text.substr(0, 60) + " [...] " + text.substr(text.size() - 60);
}

// One question through /v1/chat/completions, the line of where its time went, and whether the answer is the
// reference's.
Status ask(http::HttpClient& client, const http::Url& url, const Question& question) {
  http::HttpCallRequest call;
  call.url = url;
  call.method = "POST";
  call.target = "/v1/chat/completions";
  call.headers = {{"Content-Type", "application/json"}};
  call.body =
      fmt::format("{{\"messages\":[{{\"role\":\"user\",\"content\":{}}}],\"temperature\":0,\"max_tokens\":120}}",
                  http::json_string(question.text));
  const auto start = std::chrono::steady_clock::now();
  BATON_ASSIGN(const http::HttpReply reply, client.fetch(call));
  const double total_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  if (reply.status != 200) return error(ErrorCode::kUnavailable, "HTTP {}: {}", reply.status, reply.body);
  const json::value body = json::parse(reply.body);
  const json::object& usage = body.at("usage").as_object();
  std::string answer(body.at("choices").at(0).at("message").at("content").as_string());
  std::string parts;
  double ttft = 0;
  for (const auto& [name, ms] : body.at("ttft_parts_ms").as_object()) {
    parts += fmt::format("{}{} {:.1f}", parts.empty() ? "" : " + ", std::string(name), ms.to_number<double>());
    ttft += ms.to_number<double>();
  }
  const int64_t tokens = usage.at("completion_tokens").as_int64();
  std::cout
      << fmt::format(
             "\n{}\n  > {}\n  {}\n  time: first token {:.1f} ms = {}; {} tokens in {:.0f} ms, {} prompt tokens; {}\n",
             question.title, shortened(question.text), answer, ttft, parts, tokens, total_ms,
             usage.at("prompt_tokens").as_int64(), http::find_header(reply.headers, "x-baton-verdict"))
      << std::flush;
  if (question.complete ? answer != question.answer : !answer.starts_with(question.answer)) {
    return error(ErrorCode::kCorrupt, "this is not the answer of the reference implementation (golden.json): {}",
                 question.answer);
  }
  std::cout << fmt::format(
                   "  equal to the reference implementation's greedy answer{}\n",
                   question.complete ? "" : fmt::format(", as far as that goes ({} bytes)", question.answer.size()))
            << std::flush;
  return {};
}

// Bytes that went from each prefill rank to each decode rank, read from the instances' metrics.
Status print_matrix(http::HttpClient& client, const http::Url& url) {
  http::HttpCallRequest call;
  call.url = url;
  call.target = "/engine_metrics";
  BATON_ASSIGN(const http::HttpReply reply, client.fetch(call));
  const TransferBytes found = TransferBytes::parse(reply.body);
  std::cout << "\nKV bytes from prefill rank (row) to decode rank (column); . is a dummy link: it holds the same bytes "
               "and stayed silent\n        ";
  for (const int d : found.destinations) std::cout << fmt::format("{:>12}", fmt::format("D{}", d));
  for (const int s : found.sources) {
    std::cout << fmt::format("\n  {:<6}", fmt::format("P{}", s));
    for (const int d : found.destinations) {
      const auto link = found.links.find({s, d});
      std::cout << fmt::format("{:>12}", link == found.links.end() ? ""
                                         : link->second > 0        ? fmt::format("{:.0f}", link->second)
                                                                   : ".");
    }
  }
  std::cout << fmt::format("\n  total {:.0f} bytes\n", found.total()) << std::flush;
  if (found.total() == 0) return error(ErrorCode::kUnavailable, "no KV crossed between the instances");
  return {};
}

Status show(const Cluster& cluster, const Flags& flags) {
  BATON_ASSIGN(const std::vector<Question> questions, golden_questions(flags.cluster.model_path));
  http::HttpClient client;
  const http::Url url{flags.cluster.host, cluster.port(), ""};
  for (const Question& question : questions) BATON_TRY(ask(client, url, question));
  return flags.cluster.unified.empty() ? print_matrix(client, url) : Status();
}

int run_demo(const CLI::App& app, Flags& flags) {
  SignalWait signals;
  log_init(LogLevel::kInfo, "demo");
  default_log_level(flags.cluster, "error");  // at the end the instances lose each other
  auto options = cluster_options(flags.cluster);
  if (!options) return fail(app, options.error());
  auto cluster = Cluster::start(std::move(*options), signals);
  if (!cluster) return fail(app, cluster.error());
  std::cout << fmt::format("Separate processes, serving {}:\n{}", flags.cluster.model_path, cluster->summary())
            << std::flush;
  // The questions are asked aside, so that Ctrl-C and the death of a child are seen meanwhile.
  std::future<Status> asking = std::async(std::launch::async, [&] { return show(*cluster, flags); });
  while (asking.wait_for(std::chrono::milliseconds(0)) != std::future_status::ready) {
    const int signal = signals.wait(std::chrono::milliseconds(20));
    if (signal == SIGINT || signal == SIGTERM || signal == SIGCHLD) cluster->stop();  // ends the questions too
  }
  const Status shown = asking.get();
  if (!shown) return fail(app, shown.error());
  if (flags.keep) {
    std::cout << fmt::format("\nStill serving at http://{}; Ctrl-C stops everything\n",
                             http::Url{flags.cluster.host, cluster->port(), ""}.authority())
              << std::flush;
    const Status ended = cluster->wait(signals);
    if (!ended) return fail(app, ended.error());
  }
  cluster->stop();
  return kExitOk;
}

}  // namespace

Subcommand add_demo(CLI::App& parent) {
  CLI::App* app =
      parent.add_subcommand("demo", "Start a cluster, ask three questions, show the timing and the transfer matrix");
  auto flags = std::make_shared<Flags>();
  add_cluster_flags(*app, flags->cluster);
  app->add_flag("--keep", flags->keep, "Go on serving afterwards");
  flags->cluster.port = 0;
  return {app, [app, flags] { return run_demo(*app, *flags); }};
}

}  // namespace baton::apps
