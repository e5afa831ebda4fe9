// Templates that would take minutes or gigabytes end within the bounds, and say which one they passed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <string>

#include "jinja/interpreter.h"
#include "jinja/lexer.h"
#include "jinja/meter.h"
#include "jinja/parser.h"

namespace baton::jinja {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

// The text, or "error: ...".
std::string render(const std::string& source, const RenderLimits& limits = {}) {
  try {
    const Template parsed = parse_template(source);
    const Meter meter(limits);
    const Dict context;
    Interpreter interpreter(parsed, context, limits);
    return interpreter.run();
  } catch (const SyntaxFailure& failure) {
    return "error: " + failure.message;
  } catch (const Failure& failure) {
    return "error: " + failure.message;
  }
}

size_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

// A loop of a hundred thousand rounds over `body`, in which x is a text or list that `make` made.
std::string many_times(const std::string& make, const std::string& body) {
  return "{% set x = " + make + " %}{% for i in range(100000) %}" + body + "{% endfor %}";
}

constexpr size_t kLength = 4'000'000;
const std::string kLong = "'a' * " + std::to_string(kLength);
const std::string kDoubling =
    "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";

TEST(Bounds, NoOperationIsFree) {
  const std::string sources[] = {
      // Every operation on a long text, again and again.
      many_times(kLong, "{% set y = x.find('b') %}"),
      many_times(kLong, "{% set y = x.find('ab' * 100000) %}"),
      many_times("('a' * 2000000)", "{% set y = x.find('a' * 1000000 ~ 'b') %}"),
      many_times(kLong, "{% set y = 'b' in x %}"),
      many_times(kLong, "{% set y = ('a' * 1000000 ~ 'b') in x %}"),
      many_times(kLong, "{% set y = x.replace('a', 'bb') %}"),
      many_times(kLong, "{% set y = x.replace('', '-') %}"),
      many_times(kLong, "{% set y = x|replace('aa', '') %}"),
      many_times(kLong, "{% set y = x.split('a') %}"),
      many_times(kLong, "{% set y = x.split('b') %}"),
      many_times(kLong, "{% set y = x.split() %}"),
      many_times(kLong, "{% set y = x|list %}"),
      many_times(kLong, "{% set y = ','.join(x) %}"),
      many_times(kLong, "{% set y = x|join(x) %}"),
      many_times(kLong, "{% set y = x * 4 %}"),
      many_times(kLong, "{% set y = x ~ x ~ x %}"),
      many_times(kLong, "{% set y = x + x %}"),
      many_times(kLong, "{% set y = x[1:] %}"),
      many_times(kLong, "{% set y = x[::-1] %}"),
      many_times(kLong, "{% set y = x[-1] %}"),
      many_times(kLong, "{% set y = x|length %}"),
      many_times(kLong, "{% set y = x|tojson %}"),
      many_times(kLong, "{% set y = [x]|tojson(indent=4) %}"),
      many_times(kLong, "{% set y = [x]|string %}"),
      many_times(kLong, "{% set y = x|upper %}"),
      many_times(kLong, "{% set y = x.lower() %}"),
      many_times(kLong, "{% set y = x|trim %}"),
      many_times(kLong, "{% set y = x.strip('a') %}"),
      many_times(kLong, "{% set y = x.strip(x) %}"),
      many_times(kLong, "{% set y = x.startswith(x) %}"),
      many_times(kLong, "{% set y = x.endswith(x) %}"),
      many_times(kLong, "{% set y = x == (" + kLong + ") %}"),
      many_times(kLong, "{% set y = x < x ~ 'a' %}"),
      many_times(kLong, "{% set y = {x: 1} %}"),
      many_times(kLong, "{% set y = {}[x] %}"),
      many_times(kLong, "{% set y = x|int %}"),
      many_times(kLong, "{% set y = x|safe + '<' %}"),
      many_times(kLong, "{% set y %}{{ x }}{% endset %}"),
      many_times(kLong, "{% filter upper %}{{ x }}{% endfilter %}"),
      many_times(kLong, "{% set y = strftime_now(x) %}"),
      many_times(kLong, "{% set y = [{'a': 1}]|map(attribute=x)|list %}"),
      many_times("'.' * 4000000", "{% set y = [{'a': 1}]|map(attribute=x)|list %}"),
      many_times("'a,' * 2000000", "{% set y = [{'a': 1}]|sort(attribute=x) %}"),
      // Every operation on a long list.
      many_times("[1] * 1000000", "{% set y = x + x %}"),
      many_times("[1] * 1000000", "{% set y = x * 3 %}"),
      many_times("[1] * 1000000", "{% set y = x[1:] %}"),
      many_times("[1] * 1000000", "{% set y = 2 in x %}"),
      many_times("[1] * 1000000", "{% set y = x == x %}"),
      many_times("[1] * 1000000", "{% set y = x|sort %}"),
      many_times("[1] * 1000000", "{% set y = x|unique|list %}"),
      many_times("[1] * 1000000", "{% set y = x|map('string')|join %}"),
      many_times("[1] * 1000000", "{% set y = x|select('equalto', 2)|list %}"),
      many_times("[1] * 1000000", "{% set y = x|max %}"),
      many_times("[1] * 1000000", "{% set y = x|first %}"),
      many_times("[1] * 1000000", "{% set y = x|tojson %}"),
      many_times("range(100000)", "{% for j in x %}{% endfor %}"),
      many_times("range(100000)", "{% set y = x|list|length %}"),
      // Values that hold themselves many times over.
      kDoubling + "{{ ns.x }}",
      kDoubling + "{{ ns.x|tojson }}",
      kDoubling + "{{ ns.x|string|length }}",
      kDoubling + "{{ ns.x == [ns.x[0], ns.x[1]] }}",
      kDoubling + "{{ ns.x < ns.x }}",
      kDoubling + "{{ [1] in [ns.x] or ns.x in [ns.x] }}",
      "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} "
      "}}",
      "{% set ns = namespace(x={'a': 1}) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}"
      "{{ ns.x|tojson(indent=100) }}",
      "{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = ns %}{{ ns }}",
      // Growth by doubling.
      "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
      "{% set ns = namespace(x='aa') %}{% for i in range(100) %}{% set ns.x = ns.x.replace('a', 'aa') %}{% endfor %}",
      "{% set ns = namespace(x='aa') %}{% for i in range(100) %}{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x * 2 %}{% endfor %}",
      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = ns.x + [i] %}{% endfor %}",
      "{% set ns = namespace(x='') %}{% for i in range(100000) %}{% set ns.x = ns.x ~ 'some words ' %}{% endfor %}",
      // Many texts at once, each within its own bound.
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = ns.x + ['a' * 16000000] %}{% endfor %}",
      // Calls.
      "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
      "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
      "{% macro a(n) %}{{ b(n) }}{% endmacro %}{% macro b(n) %}{{ a(n) }}{% endmacro %}{{ a(1) }}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}{% endfor %}"
      "{% endfor %}",
      "{% for a in range(100000) %}{% macro m() %}{% endmacro %}{% for b in range(100) %}{% endfor %}{% endfor %}",
      "{{ [1] * 1000000000000 }}",
      "{{ 'a' * 100000000000000000000000000000 }}",
      "{{ range(100001) }}",
  };
  RenderLimits limits;
#ifdef __SANITIZE_ADDRESS__
  limits.steps_max /= 50;  // its memchr() and memmem() check the whole text at every call
#endif
  const size_t before = peak_bytes();
  for (const std::string& source : sources) {
    const auto begin = std::chrono::steady_clock::now();
    const std::string result = render(source, limits);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    EXPECT_THAT(result, testing::StartsWith("error: ")) << source;
    EXPECT_THAT(result, AnyOf(HasSubstr("steps"), HasSubstr("bytes"), HasSubstr("too large"),
                              HasSubstr("Range too big"), HasSubstr("recursion depth"), HasSubstr("nested deeper")))
        << source;
    EXPECT_LT(seconds.count(), 60) << source;  // most take less than one, on a quiet machine
  }
#ifndef __SANITIZE_ADDRESS__  // which keeps what is freed
  // Twice what all values of one rendering may take, for what is made before it is counted.
  EXPECT_LT(peak_bytes() - before, 2 * RenderLimits().created_bytes_max);
#else
  (void)before;
#endif
}

// Names are searched one by one: a template of a megabyte of them must not make that quadratic.
TEST(Bounds, ManyNames) {
  std::string names, keywords, parameters;
  for (int i = 0; i < 40'000; ++i) {
    names += "{% set n" + std::to_string(i) + " = 1 %}";
    keywords += (i > 0 ? ", k" : "k") + std::to_string(i) + "=1";
    parameters += (i > 0 ? ", p" : "p") + std::to_string(i);
  }
  EXPECT_THAT(render(names + "{% for i in range(100000) %}{{ n39999 }}{{ n39999 }}{% endfor %}"), HasSubstr("steps"));
  EXPECT_THAT(render("{{ namespace(" + keywords + ") }}"), HasSubstr("more than 255 arguments"));
  EXPECT_THAT(render("{% macro m(" + parameters + ") %}{% endmacro %}"), HasSubstr("more than 255 parameters"));
}

TEST(Bounds, StopsWhenAsked) {
  std::stop_source source;
  source.request_stop();
  RenderLimits limits;
  limits.stop = source.get_token();
  EXPECT_THAT(render("{% for i in range(100000) %}{{ i }}{% endfor %}", limits), HasSubstr("was stopped"));
}

// What an honest template makes of a long conversation is far within the bounds.
TEST(Bounds, LeaveRoomForLongConversations) {
  const std::string source =
      "{% set text = 'some words of a message ' * 400 %}{% set ns = namespace(system='') %}"
      "{% for i in range(400) %}{% if loop.first %}{% set ns.system = ns.system + text %}{% endif %}"
      "{{- '<|im_start|>' + 'user' + '\n' + text|trim + '<|im_end|>' + '\n' }}"
      "{%- if '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
      "{%- set ns.lines = text.split('m')|length %}"
      "{{- '<|im_start|>' ~ 'assistant' ~ '\n' ~ text.replace('x', 'y') ~ '<|im_end|>' }}{% endfor %}";
  EXPECT_GT(render(source).size(), 400U * 2 * 400 * 23);
  // Many parts of one long text.
  EXPECT_EQ(
      render("{% set x = 'a line of words\n' * 50000 %}{{ x.split('\n')|length }} {{ x.replace('\n', '\n> ')|length }} "
             "{{ x.split()|join(' ')|length }}"),
      "50001 900000 799999");
}

TEST(Bounds, WhatIsLeftOutIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ 'a'|title }}", "the filter 'title' of Jinja is not supported"},
      {"{{ ['a']|map('title')|list }}", "the filter 'title' of Jinja is not supported"},
      {"{{ 'a' is lower }}", "the test 'lower' of Jinja is not supported"},
      {"{{ ['a']|select('lower')|list }}", "the test 'lower' of Jinja is not supported"},
      {"{{ 'a'.title() }}", "the method 'title' of str is not supported"},
      {"{{ [1].index(1) }}", "the method 'index' of list is not supported"},
      {"{% call f() %}{% endcall %}", "the tag 'call' of Jinja is not supported"},
      {"{% with a = 1 %}{% endwith %}", "the tag 'with' of Jinja is not supported"},
      {"{% raw %}{% endraw %}", "the tag 'raw' of Jinja is not supported"},
      {"{% include 'x' %}", "the tag 'include' of Jinja is not supported"},
      {"{% set x | trim %}a{% endset %}", "a filter of a set block is not supported"},
      {"{{ 2 ** 3 }}", "** is not supported"},
      {"{{ f(*a) }}", "* and ** before an argument are not supported"},
      {"{{ '%s' % 1 }}", "the formatting of a text by % is not supported"},
      {"{{ 1.5 % 1 }}", "% of float is not supported"},
      {"{{ 0x10 }}", "a number is written in decimal digits"},
      {"{{ '\\101' }}", "octal and \\N escapes are not supported"},
      {"{% for x in [1] %}{{ loop.cycle(1) }}{% endfor %}", "loop.cycle is not supported"},
      {"{% for x in [1] recursive %}{% endfor %}", "recursive loops are not supported"},
  };
  for (const auto& [source, words] : cases) EXPECT_THAT(render(source), HasSubstr(words)) << source;
}

}  // namespace
}  // namespace baton::jinja
