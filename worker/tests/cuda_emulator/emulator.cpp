// The CUDA kernels of this worker on a CPU, behind the call that a stand-in for the driver makes.
//
// Checks what they compute and how they use a block: barriers, warps, shared memory, alignment. It is slow, knows nothing of
// bank conflicts or registers, and of races it sees those that one of two orders of threads brings to light.
#include "block.cpp"
#include "intrinsics.h"

#include "../../src/kernels/cuda/kernels.cu"

#include <mutex>

// One product as the kernels make it, for the test of the emulator itself: c[16, 8] = a[16, 16] · b[16, 8], by rows.
template <class T> void multiply_once(const T* a, const T* b, float* c) {
    T* shared = reinterpret_cast<T*>(dynamic_shared());
    const unsigned lane = lane_index(), row = lane % 16, column = lane / 16 * 8;
    copy16_async(shared + row * 16 + column, a + row * 16 + column, 16);
    copy16_async(shared + 256 + row * 16 + column, b + row * 8, lane < 16 ? 16 : 0);
    wait_for_copies();
    warp_barrier();
    unsigned left[4], right[4];
    load_matrices(left, shared + row * 16 + column);
    load_matrices_transposed(right, shared + 256 + row * 16 + column);
    float sum[4] = {};
    multiply_add<T>(sum, left, right[0], right[1]);
    for (unsigned i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}
ENTRY(32, 1, test_multiply_f16, (const __half* a, const __half* b, float* c), (multiply_once(a, b, c)))
ENTRY(32, 1, test_multiply_bf16, (const __nv_bfloat16* a, const __nv_bfloat16* b, float* c), (multiply_once(a, b, c)))

// What must not pass unnoticed.
template <class T> void misuse(unsigned how, T* out) {
    if (how == 0 && threadIdx.x == 1) block_barrier();
    if (how == 0 && threadIdx.x == 0) warp_barrier();
    if (how == 1) shuffle_xor(1.0f, threadIdx.x % 2 + 1);
    if (how == 2) dynamic_shared()[64] = 0;
    if (how == 3 && lane_index() == 5) return;
    if (how == 3) shuffle_xor(1.0f, 1);
    if (how == 4) copy16_async(dynamic_shared(), out, 16);
    if (how == 5) load16(reinterpret_cast<unsigned char*>(out) + 4);
    if (how == 6 && threadIdx.x < 32) return;
    if (how == 6) block_barrier();
}
ENTRY(64, 1, test_misuse, (unsigned how, float* out), (misuse(how, out)))

namespace {

struct Call {
    const emulator::Entry* entry;
    void** args;
};

// Only one launch at a time: shared memory is static.
std::mutex lock;

}  // namespace

// Runs a kernel over a grid. `args` as cuLaunchKernel's kernelParams. 0, or an `emulator::Outcome`.
extern "C" int emulate(const char* kernel, const unsigned* grid, const unsigned* threads, unsigned shared_bytes,
                       void** args) {
    const std::lock_guard<std::mutex> guard(lock);
    emulator::Block& block = emulator::block;
    const auto refuse = [&](emulator::Outcome outcome, const char* why) {
        snprintf(block.message, sizeof block.message, "%s: %s", kernel, why);
        return outcome;
    };
    const emulator::Entry* entry = emulator::Entry::find(kernel);
    if (entry == nullptr) return refuse(emulator::UNKNOWN_KERNEL, "no such kernel");
    if (threads[0] == 0 || threads[0] % emulator::LANES != 0 || threads[1] != 1 || threads[2] != 1) {
        return refuse(emulator::MISUSE, "a block is some whole warps in one dimension");
    }
    if (threads[0] > entry->most_threads) return refuse(emulator::MISUSE, "more threads than its launch bounds");
    if (shared_bytes > 227 * 1024) return refuse(emulator::MISUSE, "more shared memory than a multiprocessor has");
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0 || grid[1] > 65535 || grid[2] > 65535) {
        return refuse(emulator::MISUSE, "a grid that no GPU takes");
    }
    Call call{entry, args};
    const auto body = [](void* argument) {
        const Call& call = *static_cast<const Call*>(argument);
        call.entry->run(call.args);
    };
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                block.block_index = {x, y, z};
                const emulator::Outcome outcome = block.run(threads[0], shared_bytes, body, &call);
                if (outcome != emulator::OK) return outcome;
            }
        }
    }
    return emulator::OK;
}

// Why the last call failed.
extern "C" const char* emulate_error() { return emulator::block.message; }

// Whether blocks run their threads from the last to the first.
extern "C" void emulate_backwards(int backwards) { emulator::block.backwards = backwards != 0; }
