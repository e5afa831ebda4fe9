#include "jinja/scope.h"

#include <array>
#include <map>
#include <set>
#include <string>
#include <string_view>

#include "jinja/lexer.h"

namespace baton::jinja {
namespace {

enum class Load : std::uint8_t { kParameter, kOuter, kHidden };

struct Symbols {
  const Symbols* parent = nullptr;
  std::map<std::string, Load, std::less<>> loads;
  std::set<std::string, std::less<>> stores;

  [[nodiscard]] bool knows(std::string_view name) const {
    return loads.find(name) != loads.end() || (parent != nullptr && parent->knows(name));
  }
  void load(const std::string& name) {
    if (!knows(name)) loads[name] = Load::kOuter;
  }
  void store(const std::string& name) {
    stores.insert(name);
    if (loads.find(name) == loads.end()) {
      loads[name] = parent != nullptr && parent->knows(name) ? Load::kOuter : Load::kHidden;
    }
  }
  void parameter(const std::string& name) {
    stores.insert(name);
    loads[name] = Load::kParameter;
  }
  [[nodiscard]] HiddenNames hidden() const {
    HiddenNames out;
    for (const auto& [name, load] : loads) {
      if (load == Load::kHidden) out.push_back(name);
    }
    return out;
  }
};

template <typename Visit>
void for_each_child(const Expr& expr, Visit visit) {
  for (const ExprPtr& child : expr.children) {
    if (child != nullptr) visit(*child);
  }
  for (const ExprPtr& child : expr.arguments.positional) visit(*child);
  for (const auto& [name, child] : expr.arguments.keyword) visit(*child);
  if (expr.arguments.star != nullptr) visit(*expr.arguments.star);
  if (expr.arguments.double_star != nullptr) visit(*expr.arguments.double_star);
}

void load_names(const Expr* expr, Symbols& symbols) {
  if (expr == nullptr) return;
  if (expr->kind == ExprKind::kName) symbols.load(*expr->value.text());
  for_each_child(*expr, [&](const Expr& child) { load_names(&child, symbols); });
}

void store_target(const Target& target, Symbols& symbols, bool as_parameter) {
  if (target.is_tuple) {
    for (const Target& member : target.members) store_target(member, symbols, as_parameter);
  } else if (!target.attribute.empty()) {
    symbols.load(target.name);
  } else if (as_parameter) {
    symbols.parameter(target.name);
  } else {
    symbols.store(target.name);
  }
}

// What a statement does to the names of the scope it stands in.
void visit(const Statement& statement, Symbols& symbols);

void visit_all(const Body& body, Symbols& symbols) {
  for (const auto& statement : body) visit(*statement, symbols);
}

// Jinja compares three paths: the first branch, all elif together, and else.
void visit_if(const Statement& statement, Symbols& symbols) {
  load_names(statement.branches.front().test.get(), symbols);
  std::array<Symbols, 3> paths = {symbols, symbols, symbols};
  for (std::size_t i = 0; i < statement.branches.size(); ++i) {
    const Branch& branch = statement.branches[i];
    if (i > 0 && branch.test != nullptr) {  // an elif is an if of its own within the second path
      load_names(branch.test.get(), paths[1]);
      Symbols own = paths[1];
      visit_all(branch.body, own);
      for (const auto& [name, load] : own.loads) {
        const bool stored_here = own.stores.count(name) != 0 && paths[1].stores.count(name) == 0;
        paths[1].loads[name] = stored_here ? Load::kOuter : load;
      }
      paths[1].stores.insert(own.stores.begin(), own.stores.end());
    } else {
      visit_all(branch.body, paths[i == 0 ? 0 : 2]);
    }
  }
  std::map<std::string, int> stored;
  for (const Symbols& path : paths) {
    for (const std::string& name : path.stores) {
      if (symbols.stores.count(name) == 0) ++stored[name];
    }
  }
  for (Symbols& path : paths) {
    for (const auto& [name, load] : path.loads) symbols.loads[name] = load;
    symbols.stores.insert(path.stores.begin(), path.stores.end());
  }
  for (const auto& [name, count] : stored) {
    if (count != static_cast<int>(paths.size())) symbols.loads[name] = Load::kOuter;
  }
}

void visit(const Statement& statement, Symbols& symbols) {
  switch (statement.kind) {
    case StatementKind::kIf:
      return visit_if(statement, symbols);
    case StatementKind::kMacro:
      return symbols.store(statement.text);
    default:
      break;
  }
  for (const ExprPtr& expr : statement.exprs) load_names(expr.get(), symbols);
  if (statement.kind == StatementKind::kSet || statement.kind == StatementKind::kSetBlock) {
    store_target(statement.target, symbols, false);
  }
}

bool loads_name(const Expr* expr, std::string_view name) {
  if (expr == nullptr) return false;
  if (expr->kind == ExprKind::kName && *expr->value.text() == name) return true;
  bool found = false;
  for_each_child(*expr, [&](const Expr& child) { found = found || loads_name(&child, name); });
  return found;
}

bool mentions(const Body& body, std::string_view name) {
  for (const auto& statement : body) {
    for (const ExprPtr& expr : statement->exprs) {
      if (loads_name(expr.get(), name)) return true;
    }
    if (loads_name(statement->test.get(), name)) return true;
    for (const Branch& branch : statement->branches) {
      if (loads_name(branch.test.get(), name) || mentions(branch.body, name)) return true;
    }
    for (const Parameter& parameter : statement->parameters) {
      if (loads_name(parameter.preset.get(), name)) return true;
    }
    if (mentions(statement->body, name) || mentions(statement->otherwise, name)) return true;
  }
  return false;
}

bool assigns(const Target& target, std::string_view name) {
  if (target.name == name && target.attribute.empty()) return true;
  for (const Target& member : target.members) {
    if (assigns(member, name)) return true;
  }
  return false;
}

bool assigns(const Body& body, std::string_view name) {
  for (const auto& statement : body) {
    if (assigns(statement->target, name)) return true;
    for (const Branch& branch : statement->branches) {
      if (assigns(branch.body, name)) return true;
    }
    if (assigns(statement->body, name) || assigns(statement->otherwise, name)) return true;
  }
  return false;
}

void resolve_all(Body& body, const Symbols& symbols);

void resolve_macro(Statement& statement, Symbols& inner) {
  for (const Parameter& parameter : statement.parameters) inner.parameter(parameter.name);
  const auto special = [&](std::string_view name) {
    const bool used = mentions(statement.body, name);
    if (used) inner.parameter(std::string(name));
    return used;
  };
  statement.uses_caller = special("caller");
  statement.uses_kwargs = special("kwargs");
  statement.uses_varargs = special("varargs");
  for (const Parameter& parameter : statement.parameters) {
    load_names(parameter.preset.get(), inner);
    if (parameter.name == "kwargs") statement.uses_kwargs = false;
    if (parameter.name == "varargs") statement.uses_varargs = false;
    if (parameter.name != "caller" || !statement.uses_caller) continue;
    if (parameter.preset == nullptr) {
      throw SyntaxFailure{statement.line, "the special \"caller\" argument must be omitted or be given a default"};
    }
    statement.uses_caller = false;
  }
}

void resolve_for(Statement& statement, const Symbols& outer) {
  if (assigns(statement.target, "loop") || assigns(statement.body, "loop") || assigns(statement.otherwise, "loop")) {
    throw SyntaxFailure{statement.line, "Can't assign to special loop variable in for-loop target"};
  }
  Symbols otherwise{&outer, {}, {}};
  visit_all(statement.otherwise, otherwise);
  statement.hidden_in_else = otherwise.hidden();
  resolve_all(statement.otherwise, otherwise);
  if (statement.test != nullptr) {
    Symbols filter{&outer, {}, {}};
    store_target(statement.target, filter, true);
    load_names(statement.test.get(), filter);
    statement.hidden_in_filter = filter.hidden();
  }
}

// Resolves the scope that a statement opens, if it does. `outer` is complete.
void resolve(Statement& statement, const Symbols& outer) {
  Symbols inner{&outer, {}, {}};
  switch (statement.kind) {
    case StatementKind::kIf:
      for (Branch& branch : statement.branches) resolve_all(branch.body, outer);
      return;
    case StatementKind::kFor:
      resolve_for(statement, outer);
      if (mentions(statement.body, "loop")) inner.parameter("loop");
      store_target(statement.target, inner, true);
      break;
    case StatementKind::kMacro:
    case StatementKind::kCallBlock:
      resolve_macro(statement, inner);
      break;
    case StatementKind::kSetBlock:
      load_names(statement.test.get(), inner);
      break;
    case StatementKind::kWith:
      for (const Target& target : statement.targets) store_target(target, inner, true);
      break;
    case StatementKind::kFilterBlock:
    case StatementKind::kGeneration:
      break;
    default:
      return;
  }
  visit_all(statement.body, inner);
  if (statement.kind == StatementKind::kFilterBlock) load_names(statement.exprs.front().get(), inner);
  statement.hidden = inner.hidden();
  resolve_all(statement.body, inner);
}

void resolve_all(Body& body, const Symbols& symbols) {
  for (auto& statement : body) resolve(*statement, symbols);
}

}  // namespace

void resolve_scopes(Template& parsed) {
  Symbols symbols;
  visit_all(parsed.body, symbols);
  parsed.hidden = symbols.hidden();
  resolve_all(parsed.body, symbols);
}

}  // namespace baton::jinja
