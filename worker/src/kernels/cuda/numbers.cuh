// What all kernels share: numbers in chunks of 16 bytes, rounding that saturates, sums in a fixed order.
#pragma once

#include "intrinsics.cuh"

constexpr unsigned WARP = 32;

DEVICE unsigned lane_index() { return threadIdx.x % WARP; }
DEVICE unsigned warp_index() { return threadIdx.x / WARP; }

// Largest finite number of a type.
template <class T> constexpr float LARGEST = 3.402823466e38f;
template <> constexpr float LARGEST<__half> = 65504.0f;
template <> constexpr float LARGEST<__nv_bfloat16> = 3.3895313892515355e38f;

// What is finite stays finite in `T`: beyond its range `x` becomes the largest number of its sign. Infinities and NaN pass, so
// that a broken weight reaches the check of the output instead of vanishing in a clamp.
template <class T> DEVICE float saturate(float x) {
    const bool finite = fabsf(x) <= LARGEST<float>;
    return finite ? fminf(fmaxf(x, -LARGEST<T>), LARGEST<T>) : x;
}
template <> DEVICE float saturate<float>(float x) { return x; }

// Rounds to nearest even, saturated.
template <class T> DEVICE T narrow(float x) { return round_to<T>(saturate<T>(x)); }

// Numbers in 16 bytes: what one thread reads at a time.
template <class T> constexpr unsigned CHUNK = 16 / sizeof(T);

// Whether all pointers are aligned to 16 bytes.
template <class... P> DEVICE bool aligned16(const P*... pointers) {
    return ((reinterpret_cast<unsigned long long>(pointers) | ...) & 15) == 0;
}

template <class T> union ChunkBits {
    uint4 bits;
    T numbers[CHUNK<T>];
    DEVICE ChunkBits() {}
};

// Reads the first `valid` numbers of a chunk; the rest is 0. `whole` promises a full chunk at an aligned address: one access.
template <class T> DEVICE void load_chunk(float (&out)[CHUNK<T>], const T* p, unsigned valid, bool whole) {
    if (whole) {
        ChunkBits<T> chunk;
        chunk.bits = load16(p);
#pragma unroll
        for (unsigned i = 0; i < CHUNK<T>; i++) out[i] = to_float(chunk.numbers[i]);
    } else {
#pragma unroll
        for (unsigned i = 0; i < CHUNK<T>; i++) out[i] = i < valid ? to_float(p[i]) : 0.0f;
    }
}

// The inverse of load_chunk.
template <class T> DEVICE void store_chunk(T* p, const float (&x)[CHUNK<T>], unsigned valid, bool whole) {
    if (whole) {
        ChunkBits<T> chunk;
#pragma unroll
        for (unsigned i = 0; i < CHUNK<T>; i++) chunk.numbers[i] = narrow<T>(x[i]);
        store16(p, chunk.bits);
    } else {
#pragma unroll
        for (unsigned i = 0; i < CHUNK<T>; i++) {
            if (i < valid) p[i] = narrow<T>(x[i]);
        }
    }
}

// As many floats as a chunk of `T` has numbers, in accesses of 16 bytes: parameters that go with a chunk.
template <class T> DEVICE void load_floats(float (&out)[CHUNK<T>], const float* p, unsigned valid, bool whole) {
#pragma unroll
    for (unsigned i = 0; i < CHUNK<T>; i += 4) {
        float four[4];
        load_chunk(four, p + i, valid > i ? valid - i : 0, whole);
#pragma unroll
        for (unsigned j = 0; j < 4; j++) out[i + j] = four[j];
    }
}

// Sum over the lanes of a warp, the same bits in all of them.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (unsigned mask = WARP / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
    for (unsigned mask = WARP / 2; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}

// Stamps out an entry point for each type of numbers. `body` is a template with the parameters of the entry point.
#define ENTRY_PER_TYPE(macro) \
    macro(f32, float) macro(f16, __half) macro(bf16, __nv_bfloat16)
