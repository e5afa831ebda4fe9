// The sampling fields of a request: those of sampling_params and of the OpenAI bodies alike.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "http/api_request.h"

namespace baton::http {

// What they say of one prompt.
struct SamplingFields {
  engine::SamplingParams params;
  std::vector<std::string> stops;
  std::vector<text::StopPattern> stop_patterns;
  int stops_after = 0;         // as ChoiceRequest's
  std::string_view max_field;  // the one that gave max_new_tokens; empty: the rest of the context will do
};

inline constexpr size_t kBadWordsMax = 512;  // words; kStopBytesMax bounds their bytes

// Reads them into `read` and `request`, which hold the defaults. `openai`: the seed is "seed" alone.
Status read_sampling(const boost::json::object& from, const ModelText& model, bool openai, SamplingFields* read,
                     ApiRequest* request);

// Every id is one of the model's.
Status check_vocabulary(const std::vector<int32_t>& ids, std::string_view name, const ModelText& model);

}  // namespace baton::http
