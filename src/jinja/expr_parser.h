// The expression half of the parser (parser.h), after jinja2.parser of Jinja 3.1: the same precedence, the same
// oddities (a test may take one argument without brackets).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "jinja/ast.h"
#include "jinja/lexer.h"

namespace baton::jinja {

class ExprParser {
 public:
  explicit ExprParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  // Counts nesting while it lives.
  class Nest {
   public:
    explicit Nest(ExprParser& parser);
    ~Nest() { --parser_.depth_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    ExprParser& parser_;
  };

  [[nodiscard]] const Token& current() const { return tokens_[at_]; }
  [[nodiscard]] const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token next();
  bool skip_name(std::string_view name);
  bool skip_operator(std::string_view sign);
  void expect_operator(std::string_view sign);
  void expect(TokenKind kind);
  std::string expect_name();
  [[noreturn]] void fail_at(int line, std::string message) const;
  [[noreturn]] void fail_here(std::string message) const { fail_at(current().line, std::move(message)); }
  [[nodiscard]] static std::string describe(const Token& token);

  ExprPtr parse_expression(bool with_condition = true);
  // One expression, or several with commas: a tuple. `end` is a name that ends it.
  ExprPtr parse_tuple(bool with_condition, std::string_view end = {}, bool in_parentheses = false);
  // A chain of filters applied to `input`, which may be null; `first` is set if the first | has no bar before it.
  ExprPtr parse_filters(ExprPtr input, bool first = false);

  [[nodiscard]] static ExprPtr make(ExprKind kind, int line);
  void add(Expr& parent, ExprPtr child) const;

  // Inside {% if %} or an inline if, an unknown filter or test is an error only when it runs.
  bool lenient_ = false;
  // The others, with their lines: an inline if is recognised only behind its first operand.
  std::vector<std::pair<int, std::string>> unknown_;

 private:
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_unary(bool with_filters);
  ExprPtr parse_primary();
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr node);
  ExprPtr parse_subscript(ExprPtr node);
  ExprPtr parse_slice(ExprPtr object, ExprPtr start, int line);
  ExprPtr parse_call(ExprPtr callee);
  ExprPtr parse_test(ExprPtr input);
  void note_unknown(int line, std::string message);
  ArgumentExprs parse_arguments();
  void add_arguments(Expr& node, ArgumentExprs arguments) const;
  ExprPtr binary(Sign sign, ExprPtr left, ExprPtr right, int line) const;

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace baton::jinja
