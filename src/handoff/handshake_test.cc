#include "handoff/handshake.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "handoff/key_file.h"

namespace baton::handoff {

using wire::InstanceRole;

namespace {

const std::string kKey(32, 'k');

TEST(Handshake, ProofsHoldForOneConnectionOneSenderAndOneKey) {
  Handshake decode(InstanceRole::kDecode, kKey), prefill(InstanceRole::kPrefill, kKey);
  ASSERT_EQ(decode.greet(prefill.hello()).value(), wire::kProtocolVersions.max);
  ASSERT_EQ(prefill.greet(decode.hello()).value(), wire::kProtocolVersions.max);
  EXPECT_TRUE(decode.proved_by(prefill.prove()));
  EXPECT_TRUE(prefill.proved_by(decode.prove()));
  EXPECT_FALSE(decode.proved_by(decode.prove())) << "reflected";
  EXPECT_FALSE(prefill.proved_by(prefill.prove())) << "reflected";
  EXPECT_FALSE(decode.proved_by(wire::Proof{}));
  Handshake again(InstanceRole::kDecode, kKey);
  ASSERT_TRUE(again.greet(prefill.hello()).ok());
  EXPECT_FALSE(again.proved_by(prefill.prove())) << "of another connection";
  const std::string other_key(32, 'o');
  Handshake stranger(InstanceRole::kPrefill, other_key);
  ASSERT_TRUE(stranger.greet(decode.hello()).ok());
  ASSERT_TRUE(decode.greet(stranger.hello()).ok());
  EXPECT_FALSE(decode.proved_by(stranger.prove()));
  // Without a key there is no proof.
  const std::string none;
  Handshake open(InstanceRole::kDecode, none), also_open(InstanceRole::kPrefill, none);
  ASSERT_TRUE(open.greet(also_open.hello()).ok());
  EXPECT_FALSE(open.proved_by(also_open.prove()));
}

TEST(Handshake, AcceptCoversHellosManifestsAndPlan) {
  Handshake decode(InstanceRole::kDecode, kKey), prefill(InstanceRole::kPrefill, kKey);
  ASSERT_TRUE(decode.greet(prefill.hello()).ok());
  ASSERT_TRUE(prefill.greet(decode.hello()).ok());
  wire::Manifest d, p;
  d.role = InstanceRole::kDecode;
  const wire::Accept accept = prefill.accept(d, p, 7);
  EXPECT_TRUE(decode.accepted_by(accept, d, p));
  EXPECT_FALSE(prefill.accepted_by(accept, d, p)) << "reflected";
  wire::Accept plan = accept;
  ++plan.plan_hash;
  EXPECT_FALSE(decode.accepted_by(plan, d, p));
  wire::Manifest changed = d;
  changed.transport_blob = "elsewhere";
  EXPECT_FALSE(decode.accepted_by(accept, changed, p));
  EXPECT_FALSE(decode.accepted_by(accept, p, d));
  EXPECT_FALSE(decode.accepted_by(wire::Accept{7, prefill.prove().mac}, d, p));
}

TEST(Handshake, WhatCannotWorkSaysTheRemedy) {
  const std::string none;
  Handshake decode(InstanceRole::kDecode, kKey);
  const auto refusal = [&](const wire::Hello& hello) { return decode.greet(hello).error().message; };
  wire::Hello hello{wire::kProtocolVersions, InstanceRole::kPrefill, true, {}};
  EXPECT_TRUE(decode.greet(hello).ok());
  hello.keyed = false;
  EXPECT_EQ(
      refusal(hello),
      "the decode instance has a shared key and the prefill instance has none: give both the same --handoff-key-file");
  hello.role = InstanceRole::kDecode;
  EXPECT_NE(refusal(hello).find("both are decode instances"), std::string::npos);
  hello.versions = {7, 8};
  EXPECT_NE(refusal(hello).find("7 to 8"), std::string::npos);
}

TEST(KeyFile, HasAtLeast32Bytes) {
  const std::string path = testing::TempDir() + "baton-key-" + std::to_string(::getpid());
  const auto write = [&](const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; };
  write(kKey + " \r\n\n");
  ASSERT_EQ(::chmod(path.c_str(), 0644), 0);  // warned of
  EXPECT_EQ(read_key_file(path).value(), kKey);
  write(std::string(31, 'k') + "\n");
  const std::string text = read_key_file(path).error().message;
  EXPECT_NE(text.find("31 bytes, at least 32"), std::string::npos) << text;
  write(std::string(4097, 'k'));
  EXPECT_EQ(read_key_file(path).error().code, ErrorCode::kInvalidArgument);
  ::unlink(path.c_str());
  EXPECT_EQ(read_key_file(path).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(read_key_file("/dev/zero").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(read_key_file("/").error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace baton::handoff
