#include "layout/link_rate.h"

#include <gtest/gtest.h>

namespace baton::layout {
namespace {

TEST(LinkRate, BetweenPointsByTheLogarithmOfTheLength) {
  const LinkRate rate = LinkRate::parse("4K:100,64K:300").value();
  EXPECT_DOUBLE_EQ(rate.at(4096), 100e9);
  EXPECT_DOUBLE_EQ(rate.at(16384), 200e9);
  EXPECT_DOUBLE_EQ(rate.at(65536), 300e9);
  EXPECT_DOUBLE_EQ(rate.at(uint64_t{1} << 30), 300e9);
  EXPECT_DOUBLE_EQ(rate.at(1024), 25e9) << "as long as a copy of 4 KiB";
}

TEST(LinkRate, NamesStandForWhatWasMeasured) {
  for (const char* name : {"cuda_ipc", "shm", "tcp"}) EXPECT_TRUE(LinkRate::parse(name).ok()) << name;
}

TEST(LinkRate, AnythingElseIsRefused) {
  for (const char* text :
       {"", ",", "64K", "64K:", ":5", "64K:x", "64Q:5", "64K:0", "64K:-1", "64K:inf", "64K:nan", "0:5", "64K:5,64K:6",
        "64K:5,4K:6", "64K:5,", "99999999999M:5", "18446744073709551615M:5", "nvlink"}) {
    EXPECT_EQ(LinkRate::parse(text).error().code, ErrorCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace baton::layout
