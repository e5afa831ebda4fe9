// The transports of the processor's memory, which every machine can try. Those of cards are in cuda/.
#include "transport/conformance_test.h"

namespace baton::transport::testing {

INSTANTIATE_TEST_SUITE_P(Transports, Conformance, ::testing::Values("loopback", "shm", "tcp", "tcp_staged"),
                         transport_name);
INSTANTIATE_TEST_SUITE_P(Transports, TwoProcesses, ::testing::Values("shm", "tcp", "tcp_staged"), transport_name);

}  // namespace baton::transport::testing
