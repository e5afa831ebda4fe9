#include "http/live_names.h"

namespace baton::http {

LiveNames::Hold::Hold(std::shared_ptr<State> state, std::set<std::string> names)
    : state_(std::move(state)), names_(std::move(names)) {}

void LiveNames::Hold::release() {
  std::lock_guard lock(state_->mutex);
  for (const std::string& name : names_) state_->names.erase(name);
  names_.clear();
}

Result<std::shared_ptr<LiveNames::Hold>> LiveNames::claim(const ApiRequest& request) {
  std::set<std::string> names;
  for (const ChoiceRequest& choice : request.choices)
    names.insert(choice.engine.call.empty() ? choice.engine.rid : choice.engine.call);
  return claim(std::move(names));
}

Result<std::shared_ptr<LiveNames::Hold>> LiveNames::claim(std::set<std::string> names) {
  std::lock_guard lock(state_->mutex);
  for (const std::string& name : names) {
    if (state_->names.contains(name))
      return error(ErrorCode::kInvalidArgument, "rid: Duplicate request ID detected: {} is running", name);
  }
  state_->names.insert(names.begin(), names.end());
  return std::make_shared<Hold>(state_, std::move(names));
}

}  // namespace baton::http
