// Threads of a block as fibers: one stack each, switched by hand. glibc's swapcontext asks the kernel for the signal mask at
// every switch, and a block switches some hundred thousand times; other machines than x86-64 pay that.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emulator {

#if defined(__x86_64__)
// Saves what a callee must preserve on this stack, its pointer in `*save`, and goes on where `load` was saved.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.pushsection .text
.hidden emulator_switch
.type emulator_switch,@function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
.popsection
)");
#endif

// Where a thread of execution stands. The default is filled in by the first switch away from it.
class Context {
public:
    // Stands at the start of `entry`, which never returns, on a stack that ends at `top` (aligned to 16 bytes).
    void begin(unsigned char* bottom, size_t size, void (*entry)()) {
#if defined(__x86_64__)
        // Six registers, then where to return to; the word above keeps the alignment that a call would have left.
        auto top = reinterpret_cast<uintptr_t*>(bottom + size);
        for (int i = 1; i <= 8; i++) top[-i] = 0;
        top[-2] = reinterpret_cast<uintptr_t>(entry);
        pointer = top - 8;
#else
        getcontext(&context);
        context.uc_stack.ss_sp = bottom;
        context.uc_stack.ss_size = size;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
#endif
    }

    void switch_to(Context& next) {
#if defined(__x86_64__)
        emulator_switch(&pointer, next.pointer);
#else
        swapcontext(&context, &next.context);
#endif
    }

private:
#if defined(__x86_64__)
    void* pointer = nullptr;
#else
    ucontext_t context;
#endif
};

// Memory for the stacks of a block, each above a page that must not be touched.
class Stacks {
public:
    // A sanitizer's frames are many times larger.
    static constexpr size_t SIZE = 256 * 1024;

    unsigned char* stack(unsigned index) {
        const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        unsigned char*& at = stacks[index];
        if (at == nullptr) {
            void* memory = mmap(nullptr, guard + SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) abort();
            at = static_cast<unsigned char*>(memory) + guard;
        }
#if defined(__SANITIZE_ADDRESS__)
        // What ran here before may have been abandoned half-way.
        __asan_unpoison_memory_region(at, SIZE);
#endif
        return at;
    }

private:
    // Threads of the largest block.
    unsigned char* stacks[1024] = {};
};

}  // namespace emulator
