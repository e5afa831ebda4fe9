#include "transport/make_transport.h"

#include "base/random.h"
#include "transport/loopback.h"
#include "transport/shm.h"
#include "transport/tcp.h"

namespace baton::transport {

const char* transfer_outcome_name(TransferOutcome outcome) {
  switch (outcome) {
    case TransferOutcome::kDone:
      return "done";
    case TransferOutcome::kRejected:
      return "rejected";
    case TransferOutcome::kPeerLost:
      return "peer_lost";
    case TransferOutcome::kTimeout:
      return "timeout";
    case TransferOutcome::kCancelled:
      return "cancelled";
    case TransferOutcome::kFailed:
      return "failed";
  }
  return "unknown";
}

Result<std::unique_ptr<Transport>> make_transport(std::string_view name, const TransportOptions& given) {
  TransportOptions options = given;
  if (options.incarnation == Incarnation{}) options.incarnation = draw_incarnation();
  if (options.queue_bytes == 0) return error(ErrorCode::kInvalidArgument, "transport queue of 0 bytes");
  if (options.connections_per_peer < 1 || options.connections_per_peer > 16) {
    return error(ErrorCode::kInvalidArgument, "{} connections a peer; 1 to 16 are possible",
                 options.connections_per_peer);
  }
  if (options.copy_threads < 1 || options.copy_threads > 8) {
    return error(ErrorCode::kInvalidArgument, "{} copy threads; 1 to 8 are possible", options.copy_threads);
  }
  if (name == "loopback") return make_loopback_transport(options);
  if (name == "shm" || name == "cuda_ipc") return make_shm_transport(options, name == "cuda_ipc");
  if (name == "tcp") return make_tcp_transport(options);
  return error(ErrorCode::kInvalidArgument, "unknown transport \"{}\": choose shm, tcp, cuda_ipc or loopback", name);
}

}  // namespace baton::transport
