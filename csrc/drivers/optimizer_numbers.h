// The numbers of a group of parameters, by the names that Python gives them.
#pragma once

#include <string>

namespace kitae {

// What every rule has beside its own hyperparameters.
struct CommonNumbers {
  double weight_keep = 1, l2 = 0, l1 = 0;

  template <class Visit>
  static void fields(Visit visit) {
    visit("weight_keep", &CommonNumbers::weight_keep);
    visit("l2", &CommonNumbers::l2);
    visit("l1", &CommonNumbers::l1);
  }
};

template <class Numbers>
bool set_field(Numbers& numbers, const std::string& name, double value) {
  bool found = false;
  Numbers::fields([&](const char* field, double Numbers::* member) {
    if (name != field) return;
    numbers.*member = value;
    found = true;
  });
  return found;
}

}  // namespace kitae
