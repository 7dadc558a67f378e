// What kernels need from a GPU, on the CPU: the same names as in worker/src/kernels/cuda/intrinsics.cuh, whose guard this claims, so
// that the very same sources are run.
//
// A block's threads are fibers of one thread of the system. A barrier or an operation of a warp switches to the next fiber until all
// that take part have arrived; the last to arrive computes for all. Shared memory is NaN when a block begins, asynchronous copies
// arrive when they are waited for and not before, and a block in which nobody can go on ends with an error.
// Fragments and matrices lie as the PTX ISA says for mma.m16n8k16 and ldmatrix.
#ifndef FOREBAY_INTRINSICS
#define FOREBAY_INTRINSICS

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#define DEVICE inline

namespace emulator {

constexpr unsigned LANES = 32;
enum Code { DONE = 0, UNKNOWN = 1, DEADLOCK = 2, MISUSE = 3 };

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

struct Copy {
    void* to;
    const void* from;
    unsigned bytes;
};

struct Fiber {
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    Index thread;
    unsigned number = 0;
    bool over = false;
    std::vector<Copy> copies;
};

// Threads that meet: a warp, or the block.
struct Meeting {
    unsigned members = 0, arrived = 0;
    uint64_t held = 0;
    int kind = 0;
    void* payloads[LANES] = {};
};

// The block that is running.
struct Block {
    std::vector<Fiber> fibers;
    std::vector<Meeting> warps;
    Meeting all;
    Index index;
    unsigned char* dynamic = nullptr;
    Fiber* current = nullptr;
    void* scheduler = nullptr;
    // Grows whenever anybody gets on.
    uint64_t progress = 0;
    int error = DONE;
};

extern thread_local Block* block;

void yield();
// For misuse that a device would answer with garbage or a fault.
void misuse(const char* what);
// All lanes of the warp bring a payload; the last calls `combine` with all 32.
void meet_warp(int kind, void* payload, void (*combine)(void** payloads));
void meet_block();

// Static shared memory, known so that every block finds it poisoned.
struct Poisoned {
    Poisoned(void* at, size_t bytes);
};

using Body = void (*)(void** args);
void enlist(const char* name, Body body);

template <auto function> struct Entry;
template <class... P, void (*function)(P...)> struct Entry<function> {
    template <size_t... I> static void call(void** args, std::index_sequence<I...>) { function(*static_cast<P*>(args[I])...); }
    static void run(void** args) { call(args, std::index_sequence_for<P...>{}); }
};

struct Enlisted {
    Enlisted(const char* name, Body body) { enlist(name, body); }
};

inline void aligned(const void* p, unsigned bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) misuse("an access that is not aligned");
}

}  // namespace emulator

#define threadIdx (emulator::block->current->thread)
#define blockIdx (emulator::block->index)

#define ENTRY(threads, blocks, name, parameters, call) \
    static void name parameters { call; }              \
    static const emulator::Enlisted name##_enlisted(#name, &emulator::Entry<&name>::run);

#define SHARED_ARRAY(type, name, count)                                  \
    alignas(16) static thread_local type name[count];                    \
    static thread_local const emulator::Poisoned name##_poisoned(name, sizeof(name)); \
    (void)name##_poisoned

struct uint4 {
    unsigned x, y, z, w;
};
struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};

inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

inline unsigned char* dynamic_shared() { return emulator::block->dynamic; }
inline void block_barrier() { emulator::meet_block(); }

inline void warp_barrier() {
    emulator::meet_warp(1, nullptr, [](void**) {});
}

inline float shuffle_xor(float x, unsigned mask) {
    struct Payload {
        float x;
        unsigned mask;
        float out;
    } payload{x, mask, 0};
    emulator::meet_warp(2, &payload, [](void** all) {
        for (unsigned lane = 0; lane < emulator::LANES; lane++) {
            Payload* mine = static_cast<Payload*>(all[lane]);
            mine->out = static_cast<Payload*>(all[(lane ^ mine->mask) % emulator::LANES])->x;
        }
    });
    return payload.out;
}

inline float exp2_approximate(float x) { return exp2f(x); }

inline float to_float(float x) { return x; }
inline float to_float(__half x) {
    _Float16 number;
    memcpy(&number, &x.bits, 2);
    return static_cast<float>(number);
}
inline float to_float(__nv_bfloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

template <class T> T round_to(float x);
template <> inline float round_to<float>(float x) { return x; }
template <> inline __half round_to<__half>(float x) {
    const _Float16 number = static_cast<_Float16>(x);
    __half half;
    memcpy(&half.bits, &number, 2);
    return half;
}
template <> inline __nv_bfloat16 round_to<__nv_bfloat16>(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <class T> unsigned round_pair(float low, float high) {
    return static_cast<unsigned>(round_to<T>(low).bits) | static_cast<unsigned>(round_to<T>(high).bits) << 16;
}

inline uint4 load16(const void* p) {
    emulator::aligned(p, 16);
    uint4 bits;
    memcpy(&bits, p, 16);
    return bits;
}
inline void store16(void* p, uint4 bits) {
    emulator::aligned(p, 16);
    memcpy(p, &bits, 16);
}
inline void store4(void* p, unsigned bits) {
    emulator::aligned(p, 4);
    memcpy(p, &bits, 4);
}

inline void copy16_async(void* shared, const void* global, unsigned bytes) {
    emulator::aligned(shared, 16);
    if (bytes > 0) emulator::aligned(global, 16);
    memset(shared, 0xff, 16);
    emulator::block->current->copies.push_back({shared, global, bytes});
}

inline void wait_for_copies() {
    for (const emulator::Copy& copy : emulator::block->current->copies) {
        memset(copy.to, 0, 16);
        if (copy.bytes > 0) memcpy(copy.to, copy.from, copy.bytes);
    }
    emulator::block->current->copies.clear();
}

template <bool TRANSPOSED> void load_matrices_as(unsigned (&out)[4], const void* row) {
    emulator::aligned(row, 16);
    struct Payload {
        const void* row;
        unsigned* out;
    } payload{row, out};
    emulator::meet_warp(TRANSPOSED ? 4 : 3, &payload, [](void** all) {
        uint16_t matrices[4][8][8];
        for (unsigned lane = 0; lane < emulator::LANES; lane++) {
            memcpy(matrices[lane / 8][lane % 8], static_cast<Payload*>(all[lane])->row, 16);
        }
        for (unsigned lane = 0; lane < emulator::LANES; lane++) {
            const unsigned major = lane / 4, minor = lane % 4 * 2;
            for (unsigned m = 0; m < 4; m++) {
                const auto& matrix = matrices[m];
                const unsigned low = TRANSPOSED ? matrix[minor][major] : matrix[major][minor];
                const unsigned high = TRANSPOSED ? matrix[minor + 1][major] : matrix[major][minor + 1];
                static_cast<Payload*>(all[lane])->out[m] = low | high << 16;
            }
        }
    });
}
inline void load_matrices(unsigned (&out)[4], const void* row) { load_matrices_as<false>(out, row); }
inline void load_matrices_transposed(unsigned (&out)[4], const void* row) { load_matrices_as<true>(out, row); }

template <class T> void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct Payload {
        float* c;
        const unsigned* a;
        unsigned b[2];
    } payload{c, a, {b0, b1}};
    emulator::meet_warp(sizeof(T) + 5, &payload, [](void** all) {
        const auto number = [](unsigned pair, unsigned half) { return to_float(T{static_cast<uint16_t>(pair >> 16 * half)}); };
        static thread_local float left[16][16], right[16][8];
        for (unsigned lane = 0; lane < emulator::LANES; lane++) {
            const Payload& mine = *static_cast<Payload*>(all[lane]);
            const unsigned group = lane / 4, pair = lane % 4 * 2;
            for (unsigned half = 0; half < 2; half++) {
                for (unsigned i = 0; i < 4; i++) left[group + i % 2 * 8][pair + i / 2 * 8 + half] = number(mine.a[i], half);
                for (unsigned i = 0; i < 2; i++) right[pair + i * 8 + half][group] = number(mine.b[i], half);
            }
        }
        for (unsigned lane = 0; lane < emulator::LANES; lane++) {
            const unsigned group = lane / 4, pair = lane % 4 * 2;
            for (unsigned i = 0; i < 4; i++) {
                const unsigned row = group + i / 2 * 8, column = pair + i % 2;
                float sum = 0;
                for (unsigned k = 0; k < 16; k++) sum += left[row][k] * right[k][column];
                static_cast<Payload*>(all[lane])->c[i] += sum;
            }
        }
    });
}

#endif
