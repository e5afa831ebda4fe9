// What the program's exit status says.
#pragma once

#include "base/result.h"

namespace baton::apps {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitConfiguration = 3,
  kExitModel = 4,
  kExitNetwork = 5
};

[[nodiscard]] inline int exit_code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return kExitUsage;
    case ErrorCode::kForbidden:
    case ErrorCode::kIncompatible:
    case ErrorCode::kResourceExhausted:
      return kExitConfiguration;
    case ErrorCode::kNotFound:
    case ErrorCode::kCorrupt:
      return kExitModel;
    case ErrorCode::kUnavailable:
    case ErrorCode::kDeadlineExceeded:
      return kExitNetwork;
    case ErrorCode::kCancelled:
      return kExitFailed;
  }
  return kExitFailed;
}

// The reverse, of a child that ended: exit_code_of() of it is the child's exit code again.
[[nodiscard]] inline ErrorCode error_code_of_exit(int exit_code) {
  switch (exit_code) {
    case kExitUsage:
      return ErrorCode::kInvalidArgument;
    case kExitConfiguration:
      return ErrorCode::kIncompatible;
    case kExitModel:
      return ErrorCode::kCorrupt;
    case kExitNetwork:
      return ErrorCode::kUnavailable;
    default:
      return ErrorCode::kCancelled;
  }
}

}  // namespace baton::apps
