#include "base/thread.h"

#include <pthread.h>

#include "base/check.h"

namespace baton {

void name_thread(const char* name) {
  BATON_CHECK(::pthread_setname_np(::pthread_self(), name) == 0, "the thread name {} is too long", name);
}

}  // namespace baton
