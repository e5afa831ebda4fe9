// The program of transport_test when it runs as a child (test_support.h), and its main().
#include <iostream>
#include <sstream>

#include "transport/test_support.h"

namespace baton::transport::testing {
namespace {

// One line in, one line out. Region ids are 1 on both sides: each process has one.
class ChildProgram {
 public:
  ChildProgram(const std::string& name, uint64_t bytes) : transport_(make(name)), events_(*transport_) {
    region_ = transport_->allocate(bytes).value();
  }

  std::string answer(const std::string& line) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    if (verb == "blob") return to_hex(transport_->local_blob());
    if (verb == "fill") {  // VALUE
      fill(region_.memory, static_cast<uint8_t>(number(words)));
      return "ok";
    }
    if (verb == "count") {  // VALUE: how many bytes have it
      const std::byte value{static_cast<uint8_t>(number(words))};
      const std::vector<std::byte> bytes = get(region_.memory);
      return std::to_string(std::count(bytes.begin(), bytes.end(), value));
    }
    if (verb == "open") {  // ATTEMPT: a window over the whole region
      const WindowRange all{region_.id, 0, region_.memory.size};
      const Status opened = transport_->open_window(token(number(words)), std::span(&all, 1));
      return opened ? "ok" : opened.error().message;
    }
    if (verb == "close") return transport_->close_window(token(number(words))) ? "quiet" : "not quiet";  // ATTEMPT
    if (verb == "connect") {                                                                             // BLOB
      std::string blob;
      words >> blob;
      peer_ = transport_->connect(from_hex(blob)).value();
      return "ok";
    }
    if (verb == "post") {  // ATTEMPT COUNT: the whole region, COUNT times
      const uint64_t attempt = number(words);
      return post(attempt, number(words));
    }
    if (verb == "wait") {  // for all posts; how many ended how
      std::map<std::string, int> outcomes;
      for (const TransferId id : posts_) ++outcomes[transfer_outcome_name(events_.wait(id).outcome)];
      std::string out;
      for (const auto& [outcome, n] : outcomes) out += fmt::format("{} {} ", outcome, n);
      return out;
    }
    return "what?";
  }

 private:
  static uint64_t number(std::istream& words) {
    uint64_t n = 0;
    words >> n;
    return n;
  }

  std::string post(uint64_t attempt, uint64_t count) {
    const Block all{region_.id, 0, region_.id, 0, region_.memory.size};
    for (uint64_t i = 0; i < count; ++i) {
      auto id = transport_->post_write(peer_, std::span(&all, 1), token(attempt), in(60s));
      if (!id) return id.error().message;
      posts_.push_back(*id);
    }
    return "ok";
  }

  std::unique_ptr<Transport> transport_;
  Events events_;
  Transport::Region region_;
  PeerId peer_;
  std::vector<TransferId> posts_;
};

int child_process_main(const std::string& transport, const std::string& bytes) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ChildProgram program(transport, std::stoull(bytes));
  for (std::string line; std::getline(std::cin, line);) std::cout << program.answer(line) << std::endl;
  return 0;
}

}  // namespace
}  // namespace baton::transport::testing

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--child")
    return baton::transport::testing::child_process_main(argv[2], argv[3]);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
