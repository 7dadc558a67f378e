// Runs the kernels of kernels.cu on the CPU: see intrinsics.h.
#include "intrinsics.h"

#include "kernels.cu"

// A product by the tensor cores' layout, for the emulator's own test: c[16, 8] += a[16, 16] · b[16, 8], f16.
ENTRY(32, 1, emulated_product, (const __half* a, const __half* b, float* c), {
    const unsigned group = lane_index() / 4; const unsigned pair = lane_index() % 4 * 2;
    const auto two = [](__half low, __half high) { return low.bits | static_cast<unsigned>(high.bits) << 16; };
    unsigned left[4]; float sum[4];
    for (unsigned i = 0; i < 4; i++) {
        const __half* at = a + (group + i % 2 * 8) * 16 + pair + i / 2 * 8;
        left[i] = two(at[0], at[1]);
        sum[i] = c[(group + i / 2 * 8) * 8 + pair + i % 2];
    }
    const auto right = [&](unsigned k) { return two(b[k * 8 + group], b[(k + 1) * 8 + group]); };
    multiply_add<__half>(sum, left, right(pair), right(pair + 8));
    for (unsigned i = 0; i < 4; i++) c[(group + i / 2 * 8) * 8 + pair + i % 2] = sum[i];
})

namespace emulator {

thread_local Block* block = nullptr;

namespace {

constexpr size_t STACK_BYTES = 64 * 1024;

std::map<std::string, Body>& kernels() {
    static std::map<std::string, Body> all;
    return all;
}

std::vector<std::pair<void*, size_t>>& shared_arrays() {
    static thread_local std::vector<std::pair<void*, size_t>> all;
    return all;
}

thread_local Body running = nullptr;
thread_local void** arguments = nullptr;

// Keeps what the calling convention of x86-64 wants kept, and goes on with another stack.
extern "C" void forebay_switch(void** save, void* to);
asm(R"(
.text
.globl forebay_switch
.type forebay_switch, @function
forebay_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size forebay_switch, . - forebay_switch
)");

// Where a fiber begins. It never returns: nobody switches to it again.
void begin() {
    running(arguments);
    Fiber* fiber = block->current;
    fiber->over = true;
    block->progress++;
    if (!fiber->copies.empty()) misuse("a thread ends with copies that nobody waited for");
    Meeting& warp = block->warps[fiber->number / LANES];
    warp.members--;
    block->all.members--;
    // Whoever waits for this thread at a barrier of the block need not any more.
    if (block->all.members > 0 && block->all.arrived == block->all.members) {
        block->all.arrived = 0;
        block->all.held++;
    }
    if (warp.arrived > 0) misuse("a thread ends while its warp works together");
    for (;;) yield();
}

void prepare(Fiber& fiber) {
    if (!fiber.stack) fiber.stack = static_cast<char*>(aligned_alloc(64, STACK_BYTES));
    // As if `begin` had just been called: six registers, then where to return to, with the stack aligned as at a call.
    void** top = reinterpret_cast<void**>(fiber.stack + STACK_BYTES) - 3;
    *top = nullptr;
    *--top = reinterpret_cast<void*>(&begin);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.stack_pointer = top;
    fiber.over = false;
    fiber.copies.clear();
}

int run_block() {
    for (;;) {
        const uint64_t before = block->progress;
        bool any = false;
        for (Fiber& fiber : block->fibers) {
            if (fiber.over) continue;
            any = true;
            block->current = &fiber;
            forebay_switch(&block->scheduler, fiber.stack_pointer);
            if (block->error != DONE) return block->error;
        }
        if (!any) return DONE;
        if (block->progress == before) {
            fprintf(stderr, "emulator: no thread of block %u, %u, %u can go on\n", block->index.x, block->index.y, block->index.z);
            return DEADLOCK;
        }
    }
}

}  // namespace

void yield() { forebay_switch(&block->current->stack_pointer, block->scheduler); }

void misuse(const char* what) {
    if (block->error == DONE) {
        fprintf(stderr, "emulator: %s (block %u, %u, %u, thread %u)\n", what, block->index.x, block->index.y, block->index.z,
                block->current->number);
    }
    block->error = MISUSE;
}

void meet_warp(int kind, void* payload, void (*combine)(void**)) {
    Meeting& warp = block->warps[block->current->number / LANES];
    if (warp.members != LANES) return misuse("a warp works together without all of its lanes");
    if (warp.arrived > 0 && warp.kind != kind) return misuse("the lanes of a warp do different things together");
    warp.kind = kind;
    warp.payloads[block->current->number % LANES] = payload;
    const uint64_t held = warp.held;
    if (++warp.arrived == LANES) {
        combine(warp.payloads);
        warp.arrived = 0;
        warp.held++;
        block->progress++;
        return;
    }
    while (warp.held == held) yield();
}

void meet_block() {
    Meeting& all = block->all;
    const uint64_t held = all.held;
    if (++all.arrived == all.members) {
        all.arrived = 0;
        all.held++;
        block->progress++;
        return;
    }
    while (all.held == held) yield();
}

Poisoned::Poisoned(void* at, size_t bytes) {
    memset(at, 0xff, bytes);
    shared_arrays().push_back({at, bytes});
}

void enlist(const char* name, Body body) { kernels()[name] = body; }

}  // namespace emulator

// Runs all blocks of a launch, one after the other. 0: done, 1: no such kernel, 2: threads wait for each other for ever, 3: the
// kernel does what no device defines; the last two leave the reason on standard error.
extern "C" __attribute__((visibility("default"))) int emulate(const char* kernel, const unsigned* grid, const unsigned* threads,
                                                              unsigned shared_bytes, void** args) {
    using namespace emulator;
    const auto found = kernels().find(kernel);
    if (found == kernels().end()) return UNKNOWN;
    running = found->second;
    arguments = args;
    const unsigned count = threads[0] * threads[1] * threads[2];
    if (count == 0 || count > 1024 || threads[1] != 1 || threads[2] != 1) return MISUSE;
    Block state;
    block = &state;
    state.fibers.resize(count);
    int code = DONE;
    for (unsigned z = 0; z < grid[2] && code == DONE; z++) {
        for (unsigned y = 0; y < grid[1] && code == DONE; y++) {
            for (unsigned x = 0; x < grid[0] && code == DONE; x++) {
                state.index = {x, y, z};
                state.all = Meeting{};
                state.all.members = count;
                state.warps.assign((count + LANES - 1) / LANES, Meeting{});
                for (unsigned i = 0; i < count; i++) {
                    state.fibers[i].number = i;
                    state.fibers[i].thread = {i, 0, 0};
                    state.warps[i / LANES].members++;
                    prepare(state.fibers[i]);
                }
                for (const auto& [at, bytes] : shared_arrays()) memset(at, 0xff, bytes);
                // As long as asked for and no longer, so that a sanitiser sees who leaves it.
                state.dynamic = static_cast<unsigned char*>(aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128));
                memset(state.dynamic, 0xff, (shared_bytes + 127) / 128 * 128 + 128);
                code = run_block();
                const unsigned char* end = state.dynamic + shared_bytes;
                for (unsigned i = 0; i < 64 && code == DONE; i++) {
                    if (end[i] != 0xff) {
                        fprintf(stderr, "emulator: %s writes past its shared memory\n", kernel);
                        code = MISUSE;
                    }
                }
                free(state.dynamic);
            }
        }
    }
    for (Fiber& fiber : state.fibers) free(fiber.stack);
    block = nullptr;
    return code;
}
