#include "http/url.h"

#include <fmt/format.h>

#include <boost/url.hpp>
#include <charconv>

namespace baton::http {
namespace {

namespace urls = boost::urls;

std::string_view view(urls::string_view s) { return {s.data(), s.size()}; }

}  // namespace

std::string Url::authority() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

Result<Url> parse_url(std::string_view text) {
  const auto refuse = [&](std::string_view why) {
    return error(ErrorCode::kInvalidArgument, "'{}': {}; write http://HOST:PORT", text, why);
  };
  const bool bare = text.find("://") == std::string_view::npos;
  const std::string whole = bare ? fmt::format("http://{}", text) : std::string(text);
  const auto parsed = urls::parse_uri(whole);
  if (!parsed) return refuse("not a URL");
  if (parsed->scheme_id() != urls::scheme::http)
    return refuse(fmt::format("{} is not supported", view(parsed->scheme())));
  if (parsed->has_userinfo() || parsed->has_query() || parsed->has_fragment())
    return refuse("a user, a query or a fragment has no meaning here");
  Url url;
  url.host = parsed->host_address();
  if (url.host.empty()) return refuse("no host");
  if (parsed->has_port()) {
    const std::string_view digits = view(parsed->port());
    const auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), url.port);
    if (failed != std::errc() || url.port < 1 || url.port > 65535)
      return refuse("the port is not a number from 1 to 65535");
  }
  url.path = std::string(view(parsed->encoded_path()));
  while (url.path.ends_with('/')) url.path.pop_back();
  return url;
}

std::optional<RequestTarget> parse_target(std::string_view target) {
  auto parsed = urls::parse_origin_form({target.data(), target.size()});
  if (!parsed) {
    parsed = urls::parse_absolute_uri({target.data(), target.size()});
    // "h:80" is a URI too, of the scheme h.
    const bool http =
        parsed && (parsed->scheme_id() == urls::scheme::http || parsed->scheme_id() == urls::scheme::https);
    if (!http || !parsed->has_authority()) return std::nullopt;
  }
  RequestTarget made;
  for (const char c : parsed->path()) {
    if (c != '/' || !made.path.ends_with('/')) made.path += c;
  }
  made.query = std::string(view(parsed->encoded_query()));
  return made;
}

std::string query_value(std::string_view query, std::string_view name) {
  const auto parsed = urls::parse_query({query.data(), query.size()});
  if (!parsed) return {};
  urls::encoding_opts form;
  form.space_as_plus = true;
  const urls::params_view params(urls::string_view(query.data(), query.size()), form);
  const auto found = params.find({name.data(), name.size()});
  return found == params.end() ? std::string() : (*found).value;
}

std::string encode_path(std::string_view path) {
  return urls::encode({path.data(), path.size()}, urls::pchars + urls::grammar::lut_chars('/'));
}

}  // namespace baton::http
