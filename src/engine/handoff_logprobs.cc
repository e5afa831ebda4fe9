#include "engine/handoff_logprobs.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace baton::engine {
namespace {

std::vector<wire::TopLogprob> tops_of(const std::vector<TokenLogprob>& top) {
  std::vector<wire::TopLogprob> out;
  out.reserve(top.size());
  for (const TokenLogprob& entry : top) out.push_back({entry.token, entry.logprob});
  return out;
}

// Beside a new token, and beside one of the prompt.
size_t tops_wanted(const Request& request) { return static_cast<size_t>(std::max(request.logprobs, 0)); }
size_t prompt_tops_wanted(const Request& request) { return static_cast<size_t>(std::max(request.prompt_tops(), 0)); }

Result<std::vector<TokenLogprob>> tops_from(const std::vector<wire::TopLogprob>& tops, size_t wanted, int vocab) {
  std::vector<TokenLogprob> out;
  for (const wire::TopLogprob& top : tops) {
    if (top.token < 0 || top.token >= vocab)
      return error(ErrorCode::kCorrupt, "prefill sends a logprob of token {}; the vocabulary has {} tokens", top.token,
                   vocab);
    if (out.size() < wanted) out.push_back({top.token, top.logprob});
  }
  return out;
}

// A row of a request that wants logprobs.
Status check_listed(const std::vector<float>& listed, const Request& request) {
  if (listed.size() == request.token_ids_logprob.size()) return {};
  return error(ErrorCode::kCorrupt,
               "prefill sends {} logprobs of listed tokens, {} are expected: send both legs the same request",
               listed.size(), request.token_ids_logprob.size());
}

}  // namespace

wire::FirstToken first_token_of(GeneratedToken token, bool ends) {
  return {token.id, token.logprob, tops_of(token.top), std::move(token.listed), ends};
}

std::vector<wire::PromptRow> rows_of(std::vector<PromptLogprob> logprobs) {
  std::vector<wire::PromptRow> rows;
  rows.reserve(logprobs.size());
  for (PromptLogprob& entry : logprobs)
    rows.push_back({entry.logprob.has_value(), entry.logprob.value_or(0), tops_of(entry.top), std::move(entry.listed)});
  return rows;
}

int64_t rows_wanted(const Request& request) {
  if (request.prompt_logprob_start < 0) return 0;
  return static_cast<int64_t>(request.prompt.size()) - request.prompt_logprob_start;
}

size_t beside_wanted(const Request& request) {
  return std::max(tops_wanted(request), prompt_tops_wanted(request)) + request.token_ids_logprob.size();
}

Result<GeneratedToken> token_from(const wire::FirstToken& first, const Request& request, int vocab) {
  if (first.token < 0 || first.token >= vocab)
    return error(ErrorCode::kCorrupt, "prefill's first token is {}; the vocabulary has {} tokens", first.token, vocab);
  GeneratedToken token{first.token, first.logprob, {}};
  BATON_ASSIGN(token.top, tops_from(first.top_logprobs, tops_wanted(request), vocab));
  if (request.logprobs < 0) return token;
  BATON_TRY(check_listed(first.listed, request));
  token.listed = first.listed;
  return token;
}

Result<std::vector<PromptLogprob>> logprobs_from(std::vector<wire::PromptRow> rows, const Request& request, int vocab) {
  BATON_CHECK(static_cast<int64_t>(rows.size()) == rows_wanted(request), "{} rows of {}", rows.size(),
              rows_wanted(request));
  std::vector<PromptLogprob> logprobs;
  logprobs.reserve(rows.size());
  auto token = request.prompt.end() - static_cast<ptrdiff_t>(rows.size());
  for (wire::PromptRow& row : rows) {
    PromptLogprob& entry = logprobs.emplace_back();
    entry.token = *token++;
    if (!row.scored) continue;
    entry.logprob = row.logprob;
    BATON_ASSIGN(entry.top, tops_from(row.top_logprobs, prompt_tops_wanted(request), vocab));
    BATON_TRY(check_listed(row.listed, request));
    entry.listed = std::move(row.listed);
  }
  return logprobs;
}

}  // namespace baton::engine
