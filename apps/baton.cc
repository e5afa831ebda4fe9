// One binary: parses the command line and hands over to the chosen subcommand.
#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "command_line.h"
#include "commands.h"
#include "exit_code.h"

namespace baton::apps {

int fail(const CLI::App& app, int code, const std::string& message) {
  log_last_words(fmt::format("baton {}: {}\n", app.get_name(), message));
  return code;
}
int fail(const CLI::App& app, const Error& failure) { return fail(app, exit_code_of(failure.code), failure.message); }

namespace {

int run(int argc, char** argv) {
  CLI::App app(
      "Baton serves large language models with prefill and decode on separate instances of any two parallel layouts.",
      "baton");
  app.set_version_flag("--version", BATON_VERSION);
  app.require_subcommand(0, 1);
  const std::vector<Subcommand> commands = {add_serve(app), add_router(app), add_up(app),     add_demo(app),
                                            add_chat(app),  add_plan(app),   add_verify(app), add_bench(app)};
  for (const Subcommand& command : commands) command.app->allow_extras();
  app.allow_extras();
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (const Subcommand& command : commands) {
    if (arguments.empty() || arguments.front() != command.app->get_name()) continue;
    auto expanded = expand_flags(*command.app, std::move(arguments));
    if (!expanded) return fail(*command.app, expanded.error());
    arguments = std::move(*expanded);
  }
  std::reverse(arguments.begin(), arguments.end());  // as parse() takes them
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& failed) {
    return failed.get_exit_code() == 0 ? app.exit(failed) : (app.exit(failed), kExitUsage);
  }
  for (const Subcommand& command : commands) {
    if (!command.app->parsed()) continue;
    if (const Status leftovers = check_leftovers(*command.app, command.app->remaining()); !leftovers)
      return fail(*command.app, leftovers.error());
    return command.run();
  }
  std::vector<std::string> names;
  names.reserve(commands.size());
  for (const Subcommand& command : commands) names.push_back(command.app->get_name());
  const auto rest = app.remaining();
  if (rest.empty()) {
    fmt::print("{}", app.help());
    return kExitUsage;
  }
  const std::string guess = nearest(rest.front(), names);
  fmt::print(stderr, "baton: no command '{}'{}; the commands are {}\n", rest.front(),
             guess.empty() ? "" : ", did you mean '" + guess + "'", fmt::join(names, ", "));
  return kExitUsage;
}

}  // namespace
}  // namespace baton::apps

int main(int argc, char** argv) { return baton::apps::run(argc, argv); }
