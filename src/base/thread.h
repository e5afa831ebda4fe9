// Names of threads, for those who look at the process from outside.
#pragma once

namespace baton {

// Names the calling thread for top, gdb and perf. At most 15 characters.
void name_thread(const char* name);

}  // namespace baton
