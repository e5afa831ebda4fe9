// Who may use a server, by the head of a request alone.
#include "http/routes.h"

#include <gtest/gtest.h>

#include <map>

namespace baton::http {
namespace {

constexpr bool kOpen = true, kKeyed = false, kChanges = true;
const std::vector<Route<int>> kRoutes = {
    {"POST", "/generate", 1},
    {"PUT", "/generate", 1},
    {"GET", "/v1/models", 2},
    {"GET", "/v1/models/*", 2},
    {"GET", "/flush_cache", 3, kKeyed, kChanges},
    {"DELETE", "/workers", 4},
    {"GET", "/health", 5, kOpen},
    {"POST", "/v1/chat/completions", 6},
};

HttpRequest head_of(std::string method, std::string path, Headers headers) {
  HttpRequest head;
  head.method = std::move(method);
  head.path = std::move(path);
  head.headers = std::move(headers);
  return head;
}

int status(const char* method, const char* path, Headers headers, const Access& access) {
  const HttpRequest head = head_of(method, path, std::move(headers));
  const auto admission = admit(kRoutes, head, access);
  EXPECT_NE(admission.route == nullptr, !admission.refusal);
  return admission.refusal ? admission.refusal->status : 200;
}

TEST(Routes, ThePathTheMethodAndTheKey) {
  const Access keyed{"k", false};
  EXPECT_EQ(status("POST", "/generate", {}, keyed), 401);
  EXPECT_EQ(status("POST", "/generate", {{"authorization", "Bearer k"}}, keyed), 200);
  EXPECT_EQ(status("GET", "/health", {}, keyed), 200);
  EXPECT_EQ(status("GET", "/generate", {}, keyed), 405);
  EXPECT_EQ(status("POST", "/nowhere", {}, keyed), 404);
  EXPECT_EQ(status("POST", "/v1/embeddings", {}, keyed), 501);
}

// RFC 9110 has schemes without case; SDKs of other vendors send X-Api-Key.
TEST(Routes, WhereTheKeyStands) {
  const Access keyed{"k y", false};
  for (const Headers& good : std::vector<Headers>{{{"authorization", "bearer k y"}},
                                                  {{"Authorization", "BEARER  k y"}},
                                                  {{"X-Api-Key", "k y"}},
                                                  {{"Authorization", "Basic eA=="}, {"x-api-key", "k y"}}})
    EXPECT_EQ(status("POST", "/generate", good, keyed), 200) << good[0].second;
  for (const Headers& bad : std::vector<Headers>{{{"Authorization", "k y"}},
                                                 {{"Authorization", "Bearer k yy"}},
                                                 {{"Authorization", "Bearer k Y"}},
                                                 {{"Authorization", "Bearerk y"}},
                                                 {{"Authorization", ""}},
                                                 {{"X-Api-Key", "Bearer k y"}},
                                                 {{"X-Api-Key", ""}}})
    EXPECT_EQ(status("POST", "/generate", bad, keyed), 401) << bad[0].second;
  const auto refusal = admit(kRoutes, head_of("POST", "/generate", {}), keyed).refusal;
  EXPECT_EQ(find_header(refusal->headers, "WWW-Authenticate"), "Bearer");
}

TEST(Routes, APathMayEndInASlashAndLackV1) {
  for (const auto& [asked, path] : std::map<std::string, std::string>{{"/generate/", "/generate"},
                                                                      {"/v1/models/", "/v1/models"},
                                                                      {"/models", "/v1/models"},
                                                                      {"/models/", "/v1/models"},
                                                                      {"/chat/completions", "/v1/chat/completions"},
                                                                      {"/models/a/b", "/v1/models/a/b"}}) {
    const auto admission =
        admit(kRoutes, head_of(asked.starts_with("/v1/m") || asked.starts_with("/m") ? "GET" : "POST", asked, {}), {});
    EXPECT_TRUE(admission.route != nullptr) << asked;
    EXPECT_EQ(admission.path, path);
  }
  EXPECT_EQ(status("POST", "/embeddings/", {}, {}), 501);
  EXPECT_EQ(status("GET", "/hicache/storage-backend", {}, {}), 501);
  EXPECT_EQ(status("GET", "/v1/generate", {}, {}), 404);
  EXPECT_EQ(status("GET", "/v1/v1/models", {}, {}), 404);
  EXPECT_EQ(status("GET", "/", {}, {}), 404);
}

TEST(Routes, AProxyMayLeaveItsPathInFront) {
  for (const char* root : {"/llm", "/llm/"}) {
    Access access{"k", false};
    access.root_path = root;
    const Headers key{{"X-Api-Key", "k"}};
    for (const char* path : {"/llm/v1/models", "/llm/models/", "/v1/models"}) {
      const auto admission = admit(kRoutes, head_of("GET", path, key), access);
      EXPECT_TRUE(admission.route != nullptr) << path;
      EXPECT_EQ(admission.path, "/v1/models");
      EXPECT_EQ(status("GET", path, {}, access), 401) << path;
    }
    EXPECT_EQ(status("GET", "/llm/generate", key, access), 405);
    EXPECT_EQ(status("POST", "/llm/v1/embeddings", key, access), 501);
    for (const char* path : {"/llmv1/models", "/llm/llm/v1/models", "/llm", "/x/v1/models"})
      EXPECT_EQ(status("GET", path, key, access), 404) << path;
  }
  EXPECT_EQ(status("GET", "/llm/v1/models", {}, {}), 404);
}

TEST(Routes, WhatAPathTakesIsTold) {
  const auto allow = [](const char* method, const char* path) {
    const auto refusal = admit(kRoutes, head_of(method, path, {}), {}).refusal;
    EXPECT_EQ(refusal->status, 405);
    return std::string(find_header(refusal->headers, "Allow"));
  };
  EXPECT_EQ(allow("GET", "/generate"), "POST, PUT");
  EXPECT_EQ(allow("DELETE", "/v1/models"), "GET");
  EXPECT_EQ(allow("OPTIONS", "/chat/completions/"), "POST");
}

// What a page of another site can have a browser send without asking the server first.
TEST(Routes, APageOfAnotherSiteChangesNothing) {
  struct Row {
    const char *method, *path;
    Headers headers;
    int status;
  };
  const std::pair<std::string, std::string> json{"Content-Type", "application/json"},
      text{"Content-Type", "text/plain"}, form{"content-type", "application/x-www-form-urlencoded"},
      multipart{"content-type", "multipart/form-data; boundary=x"}, site{"Origin", "https://evil.example"},
      opaque{"Origin", "null"}, cross{"Sec-Fetch-Site", "cross-site"}, other_port{"Sec-Fetch-Site", "same-site"},
      own{"Sec-Fetch-Site", "same-origin"}, typed{"Sec-Fetch-Site", "none"};
  const Row rows[] = {
      {"POST", "/generate", {site, text}, 403},
      {"POST", "/generate", {site, form}, 403},
      {"POST", "/generate", {site, multipart}, 403},
      {"POST", "/generate", {site}, 403},
      {"POST", "/generate", {opaque, text}, 403},
      {"POST", "/generate", {cross, text}, 403},
      {"POST", "/generate", {other_port, form}, 403},
      {"POST", "/generate", {site, {"Content-Type", "text/plain; x=application/json"}}, 403},
      {"POST", "/generate", {site, {"Content-Type", "application/jsonx"}}, 403},
      {"DELETE", "/workers", {site}, 403},
      {"GET", "/flush_cache", {cross}, 403},  // an <img>
      {"HEAD", "/flush_cache", {cross}, 403},
      {"GET", "/flush_cache", {site}, 403},
      // A browser asks before it sends these, and there is nobody here to say yes.
      {"POST", "/generate", {site, json}, 200},
      {"POST", "/generate", {site, {"Content-Type", "Application/JSON ; charset=utf-8"}}, 200},
      // No page: curl, SDKs; somebody who types an address or follows a link to read.
      {"POST", "/generate", {form}, 200},
      {"POST", "/generate", {}, 200},
      {"POST", "/generate", {own, text}, 200},
      {"GET", "/flush_cache", {}, 200},
      {"GET", "/flush_cache", {typed}, 200},
      {"GET", "/v1/models", {cross}, 200},
      {"GET", "/health", {site, cross}, 200},
  };
  for (const Row& row : rows) {
    std::string shown;
    for (const auto& [name, value] : row.headers) shown += " " + name + "=" + value;
    EXPECT_EQ(status(row.method, row.path, row.headers, {}), row.status) << row.method << " " << row.path << shown;
  }
}

// A name that its owner lets point to 127.0.0.1 makes this server a part of the owner's site for the browser.
TEST(Routes, APublicNameIsNoLoopback) {
  const Access open_here{"", true}, keyed_here{"k", true}, open_to_all{"", false};
  const auto post = [](const char* host, const Access& access) {
    return status(
        "POST", "/generate",
        {{"Host", host}, {"Origin", "http://x"}, {"Content-Type", "application/json"}, {"Authorization", "Bearer k"}},
        access);
  };
  for (const char* host : {"evil.example", "evil.example:30000", "EVIL.example.", "a.localhost.evil.example",
                           "127.0.0.1.evil.example:1", "127.0.0.1.nip.io", "local.example"}) {
    EXPECT_EQ(post(host, open_here), 403) << host;
    EXPECT_EQ(post(host, keyed_here), 200) << host;
    EXPECT_EQ(post(host, open_to_all), 200) << host;
    EXPECT_EQ(status("GET", "/flush_cache", {{"Host", host}}, open_here), 403) << host;
    EXPECT_EQ(status("GET", "/v1/models", {{"Host", host}}, open_here), 200) << host;
    // A proxy on this machine passes its own name on; only browsers can be led by one.
    EXPECT_EQ(status("POST", "/generate", {{"Host", host}}, open_here), 200) << host;
  }
  for (const char* host : {"localhost", "localhost:30000", "a.localhost", "127.0.0.1:30000", "[::1]:30000", "[::1]",
                           "192.168.1.7", "gpu1:30000", "gpu1", "host.docker.internal:30000", "mac.local", ""})
    EXPECT_EQ(post(host, open_here), 200) << host;
}

TEST(Routes, Loopback) {
  for (const char* host : {"127.0.0.1", "127.9.9.9", "::1", "localhost"}) EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "example.org", ""}) EXPECT_FALSE(is_loopback(host)) << host;
}

}  // namespace
}  // namespace baton::http
