#include "transport/shm_socket.h"

#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <array>
#include <cstring>

#include "base/byte_io.h"
#include "device/cuda.h"
#include "transport/shm_control.h"

namespace baton::transport::shm {
namespace {

constexpr uint32_t kMagic = 0x534e5442;  // "BTNS"
constexpr uint8_t kVersion = 2;
constexpr uint16_t kDetailMax = 300;
constexpr size_t kMessageMax = 512;
constexpr int kSoPeerPidfd = 77;  // SO_PEERPIDFD, Linux 6.5; not in the headers of Debian 12

struct UnixAddress {
  sockaddr_un address{};
  socklen_t length = 0;
};

Result<UnixAddress> abstract_address(const std::string& name) {
  UnixAddress out;
  out.address.sun_family = AF_UNIX;
  if (name.empty() || name.size() > sizeof(out.address.sun_path) - 1) {
    return error(ErrorCode::kInvalidArgument, "a socket name of {} bytes; 1 to {} are possible", name.size(),
                 sizeof(out.address.sun_path) - 1);
  }
  std::memcpy(out.address.sun_path + 1, name.data(), name.size());  // the leading 0 makes it abstract
  out.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return out;
}

Result<UniqueFd> make_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return error(ErrorCode::kUnavailable, "socket: {}", errno_text());
  return fd;
}

ByteWriter begin_message(std::string* bytes) {
  ByteWriter out(bytes);
  out.number(kMagic);
  out.number(kVersion);
  return out;
}

bool bad_start(ByteReader* in) {
  const uint32_t magic = in->number<uint32_t>();
  return in->number<uint8_t>() != kVersion || magic != kMagic;
}

}  // namespace

std::string encode(const AttachRequest& message) {
  std::string bytes;
  ByteWriter out = begin_message(&bytes);
  out.incarnation(message.writer);
  out.incarnation(message.owner);
  return bytes;
}

std::string encode(const OwnerMessage& message) {
  std::string bytes;
  ByteWriter out = begin_message(&bytes);
  out.number(static_cast<uint8_t>(message.kind));
  out.number(message.writer);
  out.number(message.regions);
  out.number(message.bytes);
  out.text<uint8_t>(message.on_card);
  out.text<uint16_t>(std::string_view(message.detail).substr(0, kDetailMax));
  return bytes;
}

Result<AttachRequest> decode_request(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  const bool bad = bad_start(&in);
  AttachRequest request{.writer = in.incarnation(), .owner = {}};
  request.owner = in.incarnation();
  if (bad || !in.complete()) return error(ErrorCode::kCorrupt, "a malformed request of {} bytes", bytes.size());
  return request;
}

Result<OwnerMessage> decode_owner_message(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  const bool bad = bad_start(&in);
  const uint8_t kind = in.number<uint8_t>();
  OwnerMessage message{.kind = static_cast<OwnerMessage::Kind>(kind),
                       .writer = in.number<uint32_t>(),
                       .regions = in.number<uint32_t>(),
                       .bytes = in.number<uint64_t>(),
                       .on_card = in.text<uint8_t>(device::kCudaShareBytesMax)};
  message.detail = in.text<uint16_t>(kDetailMax);
  if (bad || !in.complete() || kind < 1 || kind > 3 || message.writer >= kWriters ||
      message.regions > RegionTable::kRegionsMax) {
    return error(ErrorCode::kCorrupt, "a malformed message of {} bytes", bytes.size());
  }
  return message;
}

Result<UniqueFd> listen_on(const std::string& name) {
  BATON_ASSIGN(UnixAddress to, abstract_address(name));
  BATON_ASSIGN(UniqueFd fd, make_socket());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&to.address), to.length) != 0 || ::listen(fd.get(), 64) != 0) {
    return error(ErrorCode::kUnavailable, "cannot listen on the unix socket @{}: {}", name, errno_text());
  }
  return fd;
}

Result<UniqueFd> connect_to(const std::string& name) {
  BATON_ASSIGN(UnixAddress to, abstract_address(name));
  BATON_ASSIGN(UniqueFd fd, make_socket());
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to.address), to.length) != 0) {
    return error(ErrorCode::kUnavailable, "cannot reach the unix socket @{} (same host and network namespace?): {}",
                 name, errno_text());
  }
  return fd;
}

Result<bool> send_message(int socket, const std::string& bytes, int fd) {
  iovec piece{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(head), &fd, sizeof(int));
  }
  ssize_t n = 0;
  do {
    n = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return false;
  if (n < 0) return error(ErrorCode::kUnavailable, "send: {}", errno_text());
  return true;
}

Result<Received> receive_message(int socket) {
  std::array<char, kMessageMax> buffer;
  iovec piece{buffer.data(), buffer.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t n = 0;
  do {
    n = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  Received out;
  for (cmsghdr* head = CMSG_FIRSTHDR(&message); n >= 0 && head != nullptr; head = CMSG_NXTHDR(&message, head)) {
    if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof(int)))
      continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(head), sizeof(int));
    out.fd = UniqueFd(fd);
  }
  if (n < 0 && errno == EAGAIN) return out;
  if (n <= 0) return error(ErrorCode::kUnavailable, "{}", n == 0 ? "closed by the peer" : errno_text());
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
    return error(ErrorCode::kCorrupt, "a message that is too long");
  out.bytes.assign(buffer.data(), static_cast<size_t>(n));
  return out;
}

Result<pid_t> peer_of_our_user(int socket) {
  ucred who{};
  socklen_t length = sizeof(who);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) {
    return error(ErrorCode::kUnavailable, "SO_PEERCRED: {}", errno_text());
  }
  if (who.uid != ::geteuid()) {
    return error(ErrorCode::kIncompatible, "the peer runs as uid {}, this side as {}: shm serves one user only",
                 who.uid, ::geteuid());
  }
  return who.pid;
}

Result<UniqueFd> peer_process(int socket) {
  BATON_ASSIGN(const pid_t pid, peer_of_our_user(socket));
  int number = -1;
  socklen_t length = sizeof(number);
  if (::getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &number, &length) == 0 && number >= 0) return UniqueFd(number);
  // Older kernels: by number. The connection is open, so that the process lives and the number is still its own.
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (pid <= 0 || !fd.valid()) {
    return error(ErrorCode::kIncompatible,
                 "process {} of the peer cannot be watched from here: share the pid namespace, or use tcp", pid);
  }
  return fd;
}

}  // namespace baton::transport::shm
