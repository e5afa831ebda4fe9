// Objects by ids that are given in rising order, for look-ups in every step.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "base/check.h"

namespace baton {

// It owns the objects, which stay where they are. A table with open addressing, hashed by the id's low bits:
// consecutive ids, as those of what lives at one time mostly are, lie side by side, each in its own place. At most half
// full. Visits come in no order.
template <typename Id, typename T>
class IdMap {
 public:
  // nullptr: not there.
  [[nodiscard]] T* find(Id id) const { return table_[place_of(id)].second.get(); }
  // `id` is not there.
  T& insert(Id id, std::unique_ptr<T> object) {
    BATON_CHECK(object != nullptr && find(id) == nullptr, "id {} is there already", id);
    if (2 * (size_ + 1) > table_.size()) grow();
    ++size_;
    auto& place = table_[place_of(id)];
    place = {id, std::move(object)};
    return *place.second;
  }
  // `id` is there.
  void erase(Id id) {
    size_t hole = place_of(id);
    const std::unique_ptr<T> doomed = std::move(table_[hole].second);
    BATON_CHECK(doomed != nullptr, "id {} is not there", id);
    --size_;
    // Those behind the hole that would not be found beyond it move up.
    for (size_t i = next(hole); table_[i].second != nullptr; i = next(i)) {
      if (distance(home(table_[i].first), i) < distance(hole, i)) continue;
      table_[hole] = std::move(table_[i]);
      hole = i;
    }
  }
  [[nodiscard]] size_t size() const { return size_; }
  template <typename Visit>
  void for_each(Visit visit) const {
    for (const auto& [id, object] : table_) {
      if (object != nullptr) visit(*object);
    }
  }

 private:
  using Place = std::pair<Id, std::unique_ptr<T>>;

  [[nodiscard]] size_t home(Id id) const { return static_cast<size_t>(id.value()) & (table_.size() - 1); }
  [[nodiscard]] size_t next(size_t i) const { return (i + 1) & (table_.size() - 1); }
  [[nodiscard]] size_t distance(size_t from, size_t to) const { return (to - from) & (table_.size() - 1); }
  // Of the id, or the empty one where it would be.
  [[nodiscard]] size_t place_of(Id id) const {
    size_t i = home(id);
    while (table_[i].second != nullptr && table_[i].first != id) i = next(i);
    return i;
  }
  void grow() {
    std::vector<Place> old(2 * table_.size());
    old.swap(table_);
    for (Place& place : old) {
      if (place.second != nullptr) table_[place_of(place.first)] = std::move(place);
    }
  }

  std::vector<Place> table_ = std::vector<Place>(16);
  size_t size_ = 0;
};

}  // namespace baton
