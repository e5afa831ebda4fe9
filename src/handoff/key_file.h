// --handoff-key-file: the key that the instances of one deployment share.
#pragma once

#include <string>

#include "base/result.h"

namespace baton::handoff {

// The file's bytes without white space at its end: between kHandoffKeyBytesMin and 4,096 of them. Warns when others may
// read the file. kNotFound or kInvalidArgument name the file and the remedy.
Result<std::string> read_key_file(const std::string& path);

}  // namespace baton::handoff
