#include "http/event_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton::http {
namespace {

using testing::ElementsAre;

std::vector<std::string> read_in_pieces(const std::string& bytes, size_t piece) {
  EventReader reader;
  std::vector<std::string> events;
  for (size_t at = 0; at < bytes.size(); at += piece) {
    EXPECT_TRUE(reader.read(std::string_view(bytes).substr(at, piece),
                            [&](std::string_view data) { events.emplace_back(data); }));
  }
  return events;
}

TEST(EventReader, GivesTheSameEventsInWhateverPiecesTheyCome) {
  const std::string bytes =
      ": a comment\n\ndata: {\"a\":1}\n\ndata:no space\r\n\r\nevent: x\ndata:  two\ndata: lines\nid: 7\n\n"
      "data\n\ndata: by returns\r\rdata:\n\ndata: [DONE]\n\ndata: cut off\n";
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    EXPECT_THAT(read_in_pieces(bytes, piece),
                ElementsAre("{\"a\":1}", "no space", " two\nlines", "", "by returns", "", "[DONE]"))
        << piece;
  }
}

TEST(EventReader, StopsAtAnEventWithoutEnd) {
  EventReader reader;
  const std::string piece(size_t{1} << 20, 'x');
  const auto nothing = [](std::string_view) { FAIL(); };
  Status status;
  size_t read = 0;
  for (; status && read <= 2 * EventReader::kEventBytesMax; read += piece.size()) status = reader.read(piece, nothing);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kCorrupt);
  EXPECT_LE(read, EventReader::kEventBytesMax + piece.size());
}

}  // namespace
}  // namespace baton::http
