// For tests: damages a JSON document in ways that a careless or hostile writer of files would.
#pragma once

#include <boost/json.hpp>

#include <string>
#include <vector>

#include "base/random.h"

namespace baton::text::test {

class JsonMutator {
 public:
  explicit JsonMutator(uint64_t seed) : random_(seed) {}

  // The document with one to three values replaced, removed, doubled or renamed, as text; now and then with bytes of
  // the text changed too. Says in `what` what was done.
  std::string mutate(boost::json::value document, std::string* what) {
    for (uint64_t i = 0, n = 1 + below(3); i < n; ++i) mutate_one(document, what);
    std::string text = boost::json::serialize(document);
    if (below(8) == 0 && !text.empty()) {
      for (uint64_t i = 0, n = 1 + below(4); i < n; ++i) text[below(text.size())] = static_cast<char>(below(256));
      *what += " bytes";
    }
    return text;
  }

  uint64_t below(uint64_t n) { return random_.next() % n; }

 private:
  void mutate_one(boost::json::value& document, std::string* what) {
    boost::json::value* at = &document;
    std::string path;
    // Down a random path; objects of thousands of members are entered too, but not only they.
    while (true) {
      boost::json::value* next = nullptr;
      if (boost::json::object* object = at->if_object(); object != nullptr && !object->empty()) {
        auto member = object->begin() + static_cast<std::ptrdiff_t>(below(object->size()));
        path += "." + std::string(member->key());
        next = &member->value();
        if (below(12) == 0) {
          *what += " remove " + path;
          object->erase(member);
          return;
        }
      } else if (boost::json::array* list = at->if_array(); list != nullptr && !list->empty()) {
        const uint64_t i = below(list->size());
        path += "[" + std::to_string(i) + "]";
        next = &(*list)[i];
        if (below(8) == 0) {
          *what += " double " + path;
          list->push_back(*next);
          return;
        }
      }
      if (next == nullptr) break;
      at = next;
      if (!(at->is_object() || at->is_array()) || below(6) == 0) break;
    }
    *at = hostile(*at);
    *what += " " + path + " = " + boost::json::serialize(*at).substr(0, 60);
  }

  boost::json::value hostile(const boost::json::value& old) {
    using boost::json::array;
    using boost::json::object;
    if (old.is_int64() && below(3) == 0) {                    // near what it was
      const auto n = static_cast<uint64_t>(old.get_int64());  // overflows as a file's number may, without trapping
      const uint64_t near[] = {n - 1, n + 1, 0 - n, n * 2, n * 3, n / 2 + 1, n << 20};
      return static_cast<int64_t>(near[below(std::size(near))]);
    }
    const boost::json::value values[] = {0,
                                         1,
                                         2,
                                         3,
                                         -1,
                                         7,
                                         1000,
                                         65536,
                                         1 << 24,
                                         int64_t{1000000000},
                                         INT32_MAX,
                                         int64_t{1} << 32,
                                         INT64_MAX,
                                         INT64_MIN,
                                         UINT64_MAX,
                                         0.5,
                                         1.5,
                                         -0.0,
                                         1e-300,
                                         1e300,
                                         1e15,
                                         64.0,
                                         true,
                                         false,
                                         nullptr,
                                         "",
                                         "x",
                                         "../../etc/passwd",
                                         "\n\t\x7f",
                                         boost::json::string(100'000, 'a'),
                                         array{},
                                         array{0},
                                         array{-1, 1e9},
                                         array{"x", nullptr},
                                         object{},
                                         object{{"type", "x"}},
                                         object{{"type", "Sequence"}},
                                         array{array{array{}}},
                                         "(a+)+$",
                                         "Sequence",
                                         "ByteLevel",
                                         "yarn",
                                         "llama3",
                                         "fp8"};
    return values[below(std::size(values))];
  }

  Random random_;
};

}  // namespace baton::text::test
