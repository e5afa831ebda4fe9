#include "http/exposition.h"

#include <gtest/gtest.h>

#include "http/exposition_check.h"

namespace baton::http {
namespace {

TEST(Exposition, WhatIsReadIsWrittenBack) {
  const std::string page =
      "# HELP a_total What is \"counted\"\n# TYPE a_total counter\na_total{x=\"1,}\",y=\"\\\"\\\\\"} 3\na_total 1e+06\n"
      "# HELP h Times\n# TYPE h histogram\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1.5\nh_count 2\n"
      "# TYPE g gauge\ng NaN\n";
  const auto families = parse_exposition(page);
  ASSERT_TRUE(families.ok());
  ASSERT_EQ(families->size(), 3U);
  EXPECT_EQ((*families)[0].samples[0].labels[1].second, "\\\"\\\\");
  EXPECT_EQ((*families)[1].samples.size(), 4U);
  EXPECT_EQ(render_exposition(*families), page);
}

TEST(Exposition, SpacesCommentsAndTimesAreTaken) {
  const auto families = parse_exposition("\n# a comment\n  a { x = \"1\" , }  2   1700000000\nb\t-Inf\n# HELP\n");
  ASSERT_TRUE(families.ok()) << families.error().message;
  EXPECT_EQ((*families)[0].samples[0].key(), "a{x=\"1\"}");
  EXPECT_EQ((*families)[0].samples[0].number(), 2);
  EXPECT_EQ((*families)[1].samples[0].value, "-Inf");
}

TEST(Exposition, WhatIsNoSampleIsRefused) {
  for (const char* bad : {"a", "a x", "a{x} 1", "a{x=1} 1", "a{x=\"1} 1", "a{x=\"1\"", "a{x=\"1\"y=\"2\"} 1",
                          "{x=\"1\"} 1", "<html>", "a 1x", "a{x=\"\\"})
    EXPECT_FALSE(parse_exposition(bad).ok()) << bad;
}

// The guard that pages are held against sees what it is there for.
TEST(Exposition, FaultsAreFound) {
  const std::string good = "# HELP a_total A\n# TYPE a_total counter\na_total 1\n";
  EXPECT_EQ(exposition_faults(good), "");
  for (const std::string& bad :
       {good + good, good + "a_total 2\n", std::string("# TYPE a gauge\na 1\n"), std::string("a 1\n"),
        std::string("# HELP a A\n# TYPE a counter\na 1\n"), good + "b 1",
        std::string(
            "# HELP h H\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"),
        std::string("# HELP h H\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n")})
    EXPECT_NE(exposition_faults(bad), "") << bad;
}

}  // namespace
}  // namespace baton::http
