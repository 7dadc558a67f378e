// One block of threads: who runs, who waits for whom, and what a warp does together.
//
// Threads are fibers that run until they must wait; then the next one of the warp goes on, or of the next warp. A warp collective
// takes what each lane brings, and the last lane to arrive computes what all of them get. Strict where a GPU is undefined:
// lanes that do different things, that are missing, addresses outside shared memory, copies that nobody waited for.
//
// Everything here belongs to the one launch that runs: emulator.cpp holds a lock.
#pragma once

#include <cstdio>
#include <cstring>
#include <vector>

#include "fiber.h"
#include "half.h"

namespace emulator {

struct Index {
    unsigned x, y, z;
};

constexpr unsigned LANES = 32;
// All bits set: NaN in f32, f16 and bf16.
constexpr unsigned char POISON = 0xff;
constexpr unsigned char CANARY = 0xa5;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t CANARIES = 0;
#else
constexpr size_t CANARIES = 256;
#endif

// What `emulate` returns.
enum Outcome { OK = 0, UNKNOWN_KERNEL = 1, DEADLOCK = 2, MISUSE = 3 };

enum class Collective { Barrier, Shuffle, Load, LoadTransposed, MultiplyHalf, MultiplyBfloat };

// What one lane brings to a collective.
struct Share {
    const unsigned char* row;
    unsigned words[6];
};

// One collective. A warp has two in turn: nobody can arrive at the next but one before all have left this one.
struct Meeting {
    Collective kind;
    unsigned detail;
    Share shares[LANES];
    unsigned results[LANES][4];
};

struct Warp {
    Meeting meetings[2];
    unsigned generation, arrived, alive;
};

// A copy that has been started: the destination is poisoned until it is waited for.
struct Copy {
    void* to;
    const void* from;
    unsigned bytes;
};

struct Thread {
    Context context;
    std::vector<Copy> copies;
    // Waits until `*watched` is no longer `seen`; null if it does not wait.
    const unsigned* watched;
    unsigned seen;
    bool done;

    bool can_run() const { return !done && (watched == nullptr || *watched != seen); }
};

// Static shared memory of a kernel, poisoned before each block.
struct SharedArea {
    void* at;
    size_t bytes;
};

class Block {
public:
    // Runs one block: `body(argument)` in each thread.
    Outcome run(unsigned threads, size_t shared_bytes, void (*body)(void*), void* argument);

    [[noreturn]] void fail(Outcome outcome, const char* why) {
        result = outcome;
        snprintf(message, sizeof message, "block (%u, %u, %u), thread %u: %s", block_index.x, block_index.y, block_index.z,
                 current, why);
        Thread& here = threads[current];
        here.context.switch_to(main);
        abort();  // nobody comes back
    }

    void check(bool holds, const char* why) {
        if (!holds) fail(MISUSE, why);
    }

    // `bytes` of dynamic shared memory, aligned to 16.
    void check_shared(const void* at, unsigned bytes) {
        const auto first = static_cast<const unsigned char*>(at);
        check(first >= shared && first + bytes <= shared + shared_size, "an address outside dynamic shared memory");
        check_aligned(at, 16);
    }

    void check_aligned(const void* at, unsigned alignment) {
        check(reinterpret_cast<uintptr_t>(at) % alignment == 0, "a misaligned address");
    }

    void block_barrier();
    // Waits until all lanes have arrived. Returns what this lane gets.
    const unsigned (&collective(Collective kind, unsigned detail, const Share& share))[4];
    void start_copy(void* to, const void* from, unsigned bytes);
    void finish_copies();

    void add_shared(void* at, size_t bytes) {
        memset(at, POISON, bytes);
        areas.push_back({at, bytes});
    }

    unsigned char* shared = nullptr;
    Index block_index{}, thread_index{};
    // The last thread runs first: another order must not change a bit.
    bool backwards = false;
    char message[256] = "";

private:
    static void enter();
    void finish_thread();
    void wait_for(const unsigned& generation);
    // Goes on with another thread, if one can run.
    bool yield();
    void release_block_barrier();
    void complete(Meeting& meeting);
    template <class T> void multiply(Meeting& meeting);

    Context main;
    Stacks stacks;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<SharedArea> areas;
    size_t shared_size = 0;
    unsigned current = 0, count = 0, done = 0, barrier_arrived = 0, barrier_generation = 0;
    Outcome result = OK;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
};

extern Block block;

}  // namespace emulator
