// A backend of the plain counterparts in reference.h: one scalar loop nest each, sums in double. For tests, which hold
// whole models against it.
#pragma once

#include "kernels/backend.h"

namespace baton::kernels {

[[nodiscard]] std::unique_ptr<Backend> make_reference_backend();

}  // namespace baton::kernels
