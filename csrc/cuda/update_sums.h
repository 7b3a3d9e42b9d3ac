// What a step tells of itself (drivers/optimizers.h: Tracked), as cpu/update_sums.h sums it: here a thread is a lane.
#pragma once

#include "cuda/lanes.h"
#include "drivers/optimizers.h"

namespace kitae::cuda {

template <class T>
KITAE_DEVICE void add_element(Tracked& lane, T gradient, T before, T after) {
  const double wide = static_cast<double>(gradient), weight = static_cast<double>(before);
  const double update = static_cast<double>(after) - weight;
  lane.gradient_squares += wide * wide;
  lane.absolute_update += absolute(update);
  lane.absolute_weight += absolute(weight);
  lane.update_squares += update * update;
  lane.weight_squares += weight * weight;
}

// Of a chunk; every lane gets it. A whole warp calls, with two chunks.
KITAE_DEVICE Tracked fold_lanes_of_warp(Tracked lane) {
  lane.nonfinite = fold_lanes_of_warp(lane.nonfinite);
  lane.gradient_squares = fold_lanes_of_warp(lane.gradient_squares);
  lane.absolute_update = fold_lanes_of_warp(lane.absolute_update);
  lane.absolute_weight = fold_lanes_of_warp(lane.absolute_weight);
  lane.update_squares = fold_lanes_of_warp(lane.update_squares);
  lane.weight_squares = fold_lanes_of_warp(lane.weight_squares);
  return lane;
}

}  // namespace kitae::cuda
