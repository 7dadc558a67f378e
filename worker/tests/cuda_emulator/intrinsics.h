// What worker/src/kernels/cuda/intrinsics.cuh defines, for the CPU: the kernels see the same names and are compiled unchanged.
// Claims the guard of that file, so it must be included first.
#ifndef FOREBAY_INTRINSICS
#define FOREBAY_INTRINSICS

#include <cmath>
#include <cstring>

#include "block.h"
#include "entry.h"

#define DEVICE inline

#define ENTRY(threads, blocks, name, parameters, call) \
    static void name parameters { call; }              \
    static const emulator::Entry entry_##name(#name, threads, name);

namespace emulator {
template <class T> struct SharedArray {
    T array;
    SharedArray() { block.add_shared(&array, sizeof array); }
};
}  // namespace emulator

// Blocks run one after another, so a static is a block's own.
#define SHARED_ARRAY(type, name, count)                           \
    static emulator::SharedArray<type[count]> name##_of_the_block; \
    type(&name)[count] = name##_of_the_block.array

#define threadIdx (emulator::block.thread_index)
#define blockIdx (emulator::block.block_index)

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

DEVICE unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

DEVICE unsigned char* dynamic_shared() { return emulator::block.shared; }

DEVICE void block_barrier() { emulator::block.block_barrier(); }

DEVICE void warp_barrier() { emulator::block.collective(emulator::Collective::Barrier, 0, {}); }

DEVICE float shuffle_xor(float x, unsigned mask) {
    emulator::block.check(mask < emulator::LANES, "a shuffle beyond the warp");
    const auto& out = emulator::block.collective(emulator::Collective::Shuffle, mask, {nullptr, {emulator::bits_of(x)}});
    return emulator::from_bits(out[0]);
}

DEVICE float exp2_approximate(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(__half x) { return emulator::widen(x); }
DEVICE float to_float(__nv_bfloat16 x) { return emulator::widen(x); }

template <class T> T round_to(float x);
template <> DEVICE float round_to<float>(float x) { return x; }
template <> DEVICE __half round_to<__half>(float x) { return emulator::narrow_half(x); }
template <> DEVICE __nv_bfloat16 round_to<__nv_bfloat16>(float x) { return emulator::narrow_bfloat(x); }

template <class T> DEVICE unsigned round_pair(float low, float high) {
    return round_to<T>(low).bits | static_cast<unsigned>(round_to<T>(high).bits) << 16;
}

DEVICE uint4 load16(const void* p) {
    emulator::block.check_aligned(p, 16);
    uint4 bits;
    memcpy(&bits, p, sizeof bits);
    return bits;
}

DEVICE void store16(void* p, uint4 bits) {
    emulator::block.check_aligned(p, 16);
    memcpy(p, &bits, sizeof bits);
}

DEVICE void store4(void* p, unsigned bits) {
    emulator::block.check_aligned(p, 4);
    memcpy(p, &bits, sizeof bits);
}

DEVICE void copy16_async(void* shared, const void* global, unsigned bytes) {
    emulator::block.start_copy(shared, global, bytes);
}

DEVICE void wait_for_copies() { emulator::block.finish_copies(); }

DEVICE void load_by_warp(emulator::Collective kind, unsigned (&out)[4], const void* row) {
    emulator::block.check_shared(row, 16);
    memcpy(out, emulator::block.collective(kind, 0, {static_cast<const unsigned char*>(row), {}}), sizeof out);
}

DEVICE void load_matrices(unsigned (&out)[4], const void* row) {
    load_by_warp(emulator::Collective::Load, out, row);
}

DEVICE void load_matrices_transposed(unsigned (&out)[4], const void* row) {
    load_by_warp(emulator::Collective::LoadTransposed, out, row);
}

template <class T> emulator::Collective MULTIPLY;
template <> inline constexpr emulator::Collective MULTIPLY<__half> = emulator::Collective::MultiplyHalf;
template <> inline constexpr emulator::Collective MULTIPLY<__nv_bfloat16> = emulator::Collective::MultiplyBfloat;

template <class T> DEVICE void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const auto& out = emulator::block.collective(MULTIPLY<T>, 0, {nullptr, {a[0], a[1], a[2], a[3], b0, b1}});
    for (unsigned i = 0; i < 4; i++) c[i] += emulator::from_bits(out[i]);
}

#endif
