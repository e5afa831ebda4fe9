// The subcommands. Each adds itself to the command line; run() is called if it was chosen, with the arguments that no
// option took.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "base/log.h"

namespace baton::apps {

struct Subcommand {
  CLI::App* app;
  std::function<int()> run;  // an ExitCode
};

Subcommand add_serve(CLI::App& parent);
Subcommand add_router(CLI::App& parent);
Subcommand add_up(CLI::App& parent);
Subcommand add_demo(CLI::App& parent);
Subcommand add_plan(CLI::App& parent);
Subcommand add_verify(CLI::App& parent);
Subcommand add_bench(CLI::App& parent);
Subcommand add_chat(CLI::App& parent);

// Prints "baton serve: MESSAGE" and returns the code.
int fail(const CLI::App& app, const Error& failure);
int fail(const CLI::App& app, int code, const std::string& message);

}  // namespace baton::apps
