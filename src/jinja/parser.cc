#include "jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "jinja/expr_parser.h"

namespace baton::jinja {
namespace {

class Parser : public ExprParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExprParser(std::move(tokens)) {}

  Template run() {
    Template out;
    out.body = parse_body({});
    if (!unknown_.empty()) fail_at(unknown_.front().first, unknown_.front().second);
    return out;
  }

 private:
  using StatementPtr = std::unique_ptr<Statement>;

  // What a new scope resets while it is parsed: break and continue do not reach through it.
  class Scope {
   public:
    Scope(Parser& parser, bool in_loop) : parser_(parser), in_loop_(parser.in_loop_), lenient_(parser.lenient_) {
      parser_.in_loop_ = in_loop;
      parser_.lenient_ = false;
    }
    ~Scope() {
      parser_.in_loop_ = in_loop_;
      parser_.lenient_ = lenient_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Parser& parser_;
    const bool in_loop_;
    const bool lenient_;
  };

  static StatementPtr statement(StatementKind kind, int line) {
    auto out = std::make_unique<Statement>();
    out->kind = kind;
    out->line = line;
    return out;
  }

  // Statements until a tag of one of the names, which becomes the current token; with no names, until the end.
  Body parse_body(std::initializer_list<std::string_view> ends) {
    const Nest nest(*this);
    Body body;
    while (current().kind != TokenKind::kEnd) {
      const Token token = next();
      if (token.kind == TokenKind::kData) {
        StatementPtr text = statement(StatementKind::kText, token.line);
        text->text = token.text;
        body.push_back(std::move(text));
      } else if (token.kind == TokenKind::kVariableBegin) {
        StatementPtr print = statement(StatementKind::kPrint, token.line);
        print->exprs.push_back(parse_tuple(true));
        expect(TokenKind::kVariableEnd);
        body.push_back(std::move(print));
      } else {
        for (const std::string_view end : ends) {
          if (current().is_name(end)) return body;
        }
        body.push_back(parse_statement());
        expect(TokenKind::kBlockEnd);
      }
    }
    if (ends.size() > 0) {
      fail_here(fmt::format("Unexpected end of template: '{}' is missing for the block of line {}", *(ends.end() - 1),
                            block_line_));
    }
    return body;
  }

  // The rest of the opening tag and its body; the closing name is the current token.
  Body parse_block(std::initializer_list<std::string_view> ends) {
    const int outer = std::exchange(block_line_, current().line);
    skip_operator(":");
    expect(TokenKind::kBlockEnd);
    Body body = parse_body(ends);
    block_line_ = outer;
    return body;
  }

  Body parse_last_block(std::string_view end) {
    Body body = parse_block({end});
    next();
    return body;
  }

  StatementPtr parse_statement() {
    static constexpr std::pair<std::string_view, StatementPtr (Parser::*)(int)> kTags[] = {
        {"if", &Parser::parse_if},
        {"for", &Parser::parse_for},
        {"set", &Parser::parse_set},
        {"macro", &Parser::parse_macro},
        {"filter", &Parser::parse_filter_block},
        {"generation", &Parser::parse_generation},
        {"break", &Parser::parse_jump},
        {"continue", &Parser::parse_jump},
    };
    if (current().kind != TokenKind::kName) fail_here("tag name expected");
    for (const auto& [name, parse] : kTags) {
      if (current().is_name(name)) return (this->*parse)(current().line);
    }
    static constexpr std::string_view kLeftOut[] = {"call",    "with",   "raw",  "print",      "block", "extends",
                                                    "include", "import", "from", "autoescape", "trans", "do"};
    for (const std::string_view name : kLeftOut) {
      if (current().is_name(name)) fail_here(fmt::format("the tag '{}' of Jinja is not supported", name));
    }
    fail_here(fmt::format("Encountered unknown tag '{}'.", current().text));
  }

  StatementPtr parse_if(int line) {
    StatementPtr out = statement(StatementKind::kIf, line);
    const bool lenient = std::exchange(lenient_, true);
    while (true) {
      next();  // if, elif or else
      Branch branch;
      branch.test = parse_tuple(false);
      branch.body = parse_block({"elif", "else", "endif"});
      out->branches.push_back(std::move(branch));
      if (!current().is_name("elif")) break;
    }
    if (next().text == "else") {
      Branch branch;
      branch.body = parse_last_block("endif");
      out->branches.push_back(std::move(branch));
    }
    lenient_ = lenient;
    return out;
  }

  StatementPtr parse_for(int line) {
    next();
    StatementPtr out = statement(StatementKind::kFor, line);
    out->target = parse_target("in");
    if (!skip_name("in")) fail_here(fmt::format("expected 'in', got {}", describe(current())));
    out->exprs.push_back(parse_tuple(false, "recursive"));
    if (skip_name("if")) {
      const Scope scope(*this, false);
      out->test = parse_expression();
    }
    if (skip_name("recursive")) fail_at(line, "recursive loops are not supported");
    {
      const Scope scope(*this, true);
      out->body = parse_block({"endfor", "else"});
    }
    if (next().text == "else") {
      const Scope scope(*this, in_loop_);
      out->otherwise = parse_last_block("endfor");
    }
    return out;
  }

  StatementPtr parse_set(int line) {
    next();
    StatementPtr out = statement(StatementKind::kSet, line);
    if (look().is_operator(".")) {
      out->target.name = expect_name();
      next();
      out->target.attribute = expect_name();
    } else {
      out->target = parse_target({});
    }
    if (skip_operator("=")) {
      out->exprs.push_back(parse_tuple(true));
      return out;
    }
    const Scope scope(*this, in_loop_);
    out->kind = StatementKind::kSetBlock;
    if (current().is_operator("|")) fail_at(line, "a filter of a set block is not supported: filter what is printed");
    out->body = parse_last_block("endset");
    return out;
  }

  StatementPtr parse_macro(int line) {
    next();
    StatementPtr out = statement(StatementKind::kMacro, line);
    out->text = parse_name_target().name;
    const Scope scope(*this, false);
    if (!current().is_operator("(")) fail_here(fmt::format("expected '(', got {}", describe(current())));
    out->parameters = parse_parameters();
    out->body = parse_last_block("endmacro");
    return out;
  }

  StatementPtr parse_filter_block(int line) {
    next();
    StatementPtr out = statement(StatementKind::kFilterBlock, line);
    const Scope scope(*this, in_loop_);
    out->exprs.push_back(parse_filters(nullptr, true));
    out->body = parse_last_block("endfilter");
    return out;
  }

  StatementPtr parse_generation(int line) {
    next();
    StatementPtr out = statement(StatementKind::kGeneration, line);
    const Scope scope(*this, false);
    out->body = parse_last_block("endgeneration");
    return out;
  }

  StatementPtr parse_jump(int line) {
    const Token token = next();
    if (!in_loop_) fail_at(line, fmt::format("'{}' outside loop", token.text));
    return statement(token.text == "break" ? StatementKind::kBreak : StatementKind::kContinue, line);
  }

  std::vector<Parameter> parse_parameters() {
    std::vector<Parameter> out;
    expect_operator("(");
    while (!current().is_operator(")")) {
      if (!out.empty()) expect_operator(",");
      if (out.size() == kArgumentsMax) fail_here(fmt::format("more than {} parameters", kArgumentsMax));
      Parameter parameter;
      parameter.name = parse_name_target().name;
      for (const Parameter& other : out) {
        if (other.name == parameter.name) fail_here(fmt::format("duplicate argument '{}'", parameter.name));
      }
      if (skip_operator("=")) {
        parameter.preset = parse_expression();
      } else if (!out.empty() && out.back().preset != nullptr) {
        fail_here("non-default argument follows default argument");
      }
      out.push_back(std::move(parameter));
    }
    expect_operator(")");
    return out;
  }

  Target parse_name_target() {
    static constexpr std::string_view kConstants[] = {"true", "false", "none", "True", "False", "None"};
    const int line = current().line;
    Target target;
    target.name = expect_name();
    if (std::find(std::begin(kConstants), std::end(kConstants), target.name) != std::end(kConstants)) {
      fail_at(line, fmt::format("can't assign to '{}'", target.name));
    }
    return target;
  }

  // A name or a tuple of targets, ended by the name `end`, by = or by the end of the tag.
  Target parse_target(std::string_view end) {
    const Nest nest(*this);
    std::vector<Target> members;
    bool is_tuple = false;
    while (true) {
      if (!members.empty()) expect_operator(",");
      const TokenKind kind = current().kind;
      if (kind == TokenKind::kVariableEnd || kind == TokenKind::kBlockEnd || current().is_operator(")")) break;
      if (!end.empty() && current().is_name(end)) break;
      if (skip_operator("(")) {
        members.push_back(parse_target({}));
        expect_operator(")");
      } else {
        members.push_back(parse_name_target());
      }
      if (!current().is_operator(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && members.size() == 1) return std::move(members.front());
    if (!is_tuple) fail_here(fmt::format("expected a name to assign to, got {}", describe(current())));
    Target target;
    target.is_tuple = true;
    target.members = std::move(members);
    return target;
  }

  bool in_loop_ = false;
  int block_line_ = 1;
};

}  // namespace

Template parse_template(std::string_view source) {
  if (source.size() > kSourceBytesMax) {
    throw SyntaxFailure{
        1, fmt::format("the template has {} bytes, at most {} are allowed", source.size(), kSourceBytesMax)};
  }
  return Parser(tokenize(source)).run();
}

}  // namespace baton::jinja
