// All kernels of encoders, one translation unit: CUDA C++17 for compute capability 8.0 and later.
//
// Entry points are named <kernel>_<type>, type f32, f16 or bf16; launch.rs chooses them and says how they are launched.
// Sums are taken in f32, in an order that depends on a row alone: a row's bits do not depend on its company in the batch.

#include "attention.cuh"
#include "attention_plain.cuh"
#include "gelu.cuh"
#include "norm.cuh"
#include "pool.cuh"
