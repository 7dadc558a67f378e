// Kernels by name, called with their parameters as cuLaunchKernel passes them: one pointer to each.
#pragma once

#include <cstring>
#include <utility>

namespace emulator {

class Entry {
public:
    template <class... P>
    Entry(const char* kernel, unsigned most, void (*kernel_function)(P...))
        : name(kernel), most_threads(most), function(reinterpret_cast<void (*)()>(kernel_function)), next(first) {
        invoke = [](void (*function)(), void** args) {
            call(reinterpret_cast<void (*)(P...)>(function), args, std::index_sequence_for<P...>());
        };
        first = this;
    }

    static const Entry* find(const char* kernel) {
        for (const Entry* entry = first; entry != nullptr; entry = entry->next) {
            if (strcmp(entry->name, kernel) == 0) return entry;
        }
        return nullptr;
    }

    void run(void** args) const { invoke(function, args); }

    const char* name;
    // Of a block: what __launch_bounds__ says.
    unsigned most_threads;

private:
    template <class... P, size_t... I>
    static void call(void (*function)(P...), void** args, std::index_sequence<I...>) {
        function(*static_cast<P*>(args[I])...);
    }

    void (*function)();
    void (*invoke)(void (*)(), void**);
    const Entry* next;

    // Zero before any constructor runs.
    static inline const Entry* first = nullptr;
};

}  // namespace emulator
