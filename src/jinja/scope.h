// Decides, for each scope of a template, which names it hides before they are assigned (HiddenNames in ast.h),
// and which macros use caller, varargs and kwargs. Follows jinja2.idtracking: a name that a scope assigns in every path
// before reading it, and that no outer scope knows, is undefined there until then, even if the context has it.
#pragma once

#include "jinja/ast.h"

namespace baton::jinja {

// Throws SyntaxFailure when a loop's body assigns to `loop`.
void resolve_scopes(Template& parsed);

}  // namespace baton::jinja
