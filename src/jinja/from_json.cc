#include "jinja/from_json.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/string.hpp>

namespace baton::jinja {
namespace {

// The containers check the nesting only once they are built, from the inside out.
Value convert(const boost::json::value& value, int depth);

Dict convert(const boost::json::object& object, int depth) {
  Dict dict;
  for (const auto& [key, item] : object) dict.set(std::string(key), convert(item, depth + 1));
  return dict;
}

Value convert(const boost::json::value& value, int depth) {
  if (depth > kNestingMax) fail("the input is nested deeper than {} levels", kNestingMax);
  switch (value.kind()) {
    case boost::json::kind::null:
      return Value();
    case boost::json::kind::bool_:
      return Value(value.get_bool());
    case boost::json::kind::int64:
      return Value(static_cast<Int>(value.get_int64()));
    case boost::json::kind::uint64:
      return Value(static_cast<Int>(value.get_uint64()));
    case boost::json::kind::double_:
      return Value(value.get_double());
    case boost::json::kind::string:
      return Value(std::string(value.get_string()));
    case boost::json::kind::object:
      return Value(std::make_shared<const Dict>(convert(value.get_object(), depth)));
    case boost::json::kind::array:
      break;
  }
  std::vector<Value> items;
  items.reserve(value.get_array().size());
  for (const boost::json::value& item : value.get_array()) items.push_back(convert(item, depth + 1));
  return Value::list(std::move(items));
}

}  // namespace

Value from_json(const boost::json::value& value) { return convert(value, 1); }
Dict from_json(const boost::json::object& object) { return convert(object, 1); }

}  // namespace baton::jinja
