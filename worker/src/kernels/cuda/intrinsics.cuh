// Everything that only a GPU understands: inline PTX, shuffles, shared memory, conversions of 16-bit numbers.
//
// The other sources are plain C++17 on top of these names. The tests define the same names for the CPU
// (worker/tests/cuda_emulator/intrinsics.h, which claims this guard) and run the very same kernels there, so whatever a
// kernel needs from the hardware is added here and there, never inline in a kernel.
#ifndef FOREBAY_INTRINSICS
#define FOREBAY_INTRINSICS

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DEVICE __device__ __forceinline__

// Defines an entry point: `call` is its body. `threads` and `blocks` bound what the compiler may spend on registers.
#define ENTRY(threads, blocks, name, parameters, call) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name parameters { call; }

// An array that the threads of a block share.
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]

// Shared memory whose size the launch decides.
DEVICE unsigned char* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];
    return dynamic_shared_memory;
}

DEVICE void block_barrier() { __syncthreads(); }

// Orders shared memory among the lanes of a warp.
DEVICE void warp_barrier() { __syncwarp(); }

// The value of the lane whose number differs in the bits of `mask`. All lanes must take part.
DEVICE float shuffle_xor(float x, unsigned mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }

// Two units in the last place from 2 to the x; 0 for -inf.
DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(__half x) { return __half2float(x); }
DEVICE float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounds to nearest even; too large becomes infinite.
template <class T> DEVICE T round_to(float x);
template <> DEVICE float round_to<float>(float x) { return x; }
template <> DEVICE __half round_to<__half>(float x) { return __float2half_rn(x); }
template <> DEVICE __nv_bfloat16 round_to<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// Rounds two numbers into one register, `low` in the lower half: the order of tensor core operands.
template <class T> DEVICE unsigned round_pair(float low, float high);
template <> DEVICE unsigned round_pair<__half>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}
template <> DEVICE unsigned round_pair<__nv_bfloat16>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}

// 16 bytes in one access; `p` must be aligned to them.
DEVICE uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }
DEVICE void store16(void* p, uint4 bits) { *static_cast<uint4*>(p) = bits; }
DEVICE void store4(void* p, unsigned bits) { *static_cast<unsigned*>(p) = bits; }

DEVICE unsigned shared_address(const void* shared) { return static_cast<unsigned>(__cvta_generic_to_shared(shared)); }

// Starts copying 16 bytes to shared memory: the first `bytes` (0 or 16) from `global`, zeroes for the rest. Past the first
// level cache, because a block reads each tile once. Both sides must be aligned to 16 bytes.
DEVICE void copy16_async(void* shared, const void* global, unsigned bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

// Waits for all copies that this thread started. Others see them after a barrier.
DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Four 8 × 8 matrices of 16-bit numbers. Lane i names row i % 8 of matrix i / 8 (8 numbers, aligned to 16 bytes) and gets of
// matrix m, in out[m], the two numbers at row lane / 4, columns 2 (lane % 4) and the next.
DEVICE void load_matrices(unsigned (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the transposed matrices.
DEVICE void load_matrices_transposed(unsigned (&out)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a · b on tensor cores, for `a` 16 × 16 by rows, `b` 16 × 8 by columns, `c` 16 × 8 in f32. With g = lane / 4 and
// t = 2 (lane % 4), a lane holds
// a: rows g, g + 8, g, g + 8 at columns t, t, t + 8, t + 8 and the next; b: column g at rows t, t + 8 and the next;
// c: row g at columns t, t + 1, then row g + 8 at the same.
template <class T> DEVICE void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
DEVICE void multiply_add<__half>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
DEVICE void multiply_add<__nv_bfloat16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
