// The sampling fields of a request: those of sampling_params and of the OpenAI bodies alike.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "http/api_request.h"

namespace baton::http {

// Reads them into `params`, `stops` and `request`, which hold the defaults. `openai`: the seed is "seed" alone.
Status read_sampling(const boost::json::object& from, const ModelText& model, bool openai,
                     engine::SamplingParams* params, std::vector<std::string>* stops, ApiRequest* request);

// Every id is one of the model's.
Status check_vocabulary(const std::vector<int32_t>& ids, std::string_view name, const ModelText& model);

}  // namespace baton::http
