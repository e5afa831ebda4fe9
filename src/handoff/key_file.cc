#include "handoff/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "handoff/control_connection.h"
#include "handoff/handshake.h"

namespace baton::handoff {
namespace {
constexpr size_t kKeyBytesMax = 4096;
}

Result<std::string> read_key_file(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (!fd.valid() || ::fstat(fd.get(), &status) != 0)
    return error(ErrorCode::kNotFound, "--handoff-key-file {}: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode))
    return error(ErrorCode::kInvalidArgument, "--handoff-key-file {}: not a regular file", path);
  std::string key(kKeyBytesMax + 1, '\0');
  size_t size = 0;
  while (size < key.size()) {
    const ssize_t n = ::read(fd.get(), key.data() + size, key.size() - size);
    if (n < 0) return error(ErrorCode::kInvalidArgument, "--handoff-key-file {}: {}", path, std::strerror(errno));
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > kKeyBytesMax)
    return error(ErrorCode::kInvalidArgument, "--handoff-key-file {}: more than {} bytes", path, kKeyBytesMax);
  key.resize(size);
  while (!key.empty() && std::strchr(" \t\r\n", key.back()) != nullptr) key.pop_back();
  if (key.size() < kHandoffKeyBytesMin)
    return error(ErrorCode::kInvalidArgument,
                 "--handoff-key-file {}: {} bytes, at least {} are needed: (umask 077; openssl rand -hex 32 > {})",
                 path, key.size(), kHandoffKeyBytesMin, path);
  if ((status.st_mode & (S_IRGRP | S_IROTH | S_IWGRP | S_IWOTH)) != 0)
    log_warning("--handoff-key-file {} can be read or written by others (mode {:o}): chmod 600 {}", path,
                status.st_mode & 0777, path);
  return key;
}

}  // namespace baton::handoff
