// The kernels of one capability that are quick to compile, together.
#pragma once
#include "conv/fft/complex.inl"
#include "local/local.inl"
#include "lrn/lrn.inl"
#include "norm/norm.inl"
#include "transform/transform.inl"
