#include "base/id_map.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>

#include "base/ids.h"
#include "base/random.h"

namespace baton {
namespace {

// Random insertions and removals beside std::map; ids far apart and close together, so that places collide.
TEST(IdMap, HoldsWhatAMapHolds) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    Random random(seed);
    IdMap<SequenceId, int> map;
    std::map<SequenceId, int> model;
    for (int i = 0; i < 3000; ++i) {
      const SequenceId id(random.below(40) * (random.below(2) == 0 ? 1 : 64));
      if (model.contains(id) && random.below(2) == 0) {
        map.erase(id);
        model.erase(id);
      } else if (!model.contains(id)) {
        map.insert(id, std::make_unique<int>(i));
        model[id] = i;
      }
      ASSERT_EQ(map.size(), model.size());
      for (uint64_t number = 0; number < 40; ++number) {
        for (const SequenceId probe : {SequenceId(number), SequenceId(64 * number)}) {
          const auto expected = model.find(probe);
          const int* found = map.find(probe);
          ASSERT_EQ(found != nullptr, expected != model.end()) << "seed " << seed;
          if (found != nullptr) {
            ASSERT_EQ(*found, expected->second) << "seed " << seed;
          }
        }
      }
      std::set<int> visited;
      map.for_each([&](int object) { visited.insert(object); });
      ASSERT_EQ(visited.size(), model.size());
    }
  }
}

TEST(IdMapDeathTest, MisuseStops) {
  IdMap<SequenceId, int> map;
  map.insert(SequenceId(3), std::make_unique<int>(0));
  EXPECT_DEATH(map.insert(SequenceId(3), std::make_unique<int>(0)), "3 is there already");
  EXPECT_DEATH(map.erase(SequenceId(19)), "19 is not there");
}

}  // namespace
}  // namespace baton
