// Direct summation, for algorithms that are made of it. Its record is in direct.cpp, the weight gradient in
// correlate.h.
#pragma once
#include "conv/gather.h"

namespace torchconv {

// The gathers of all residues of the stride, in order, over blocks in parallel.
template <class T>
void run_direct(const std::vector<TappedGather>& gathers, bool channels_last, const T* source, const T* weight,
                const T* bias, T* target);

// Measured in multiply-adds of one vector: what comes with every product and position.
constexpr double direct_product = 1.1, direct_position = 6;

// What direct costs where `at_once` source channels, or positions of a weight gradient, are multiplied at once.
double direct_cost(const ConvParams& p, Direction direction, double at_once);
// The weight's elements, its channels filled up to whole vectors.
double direct_filters(const ConvParams& p, Direction direction);
// How many are, by direct and by the built-in.
double products_at_once(const ConvParams& p);

}  // namespace torchconv
