// For tests.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/check.h"

namespace baton {

// A directory of a test's own that goes when the test does: several checkouts are tested on one host at a time.
class TempDir {
 public:
  TempDir() : path_((std::filesystem::temp_directory_path() / "baton-test-XXXXXX").string()) {
    BATON_CHECK(mkdtemp(path_.data()) != nullptr, "no directory {}", path_);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }
  void write(std::string_view name, std::string_view text) const {
    std::ofstream(path(name), std::ios::binary) << text;
  }

 private:
  std::string path_;
};

}  // namespace baton
