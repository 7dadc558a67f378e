// A CUDA driver that computes on the CPU, for tests of everything around the kernels where there is no GPU.
//
// Made into one shared library under the names of CUDA's, it lets the CUDA binary start, allocate, copy, multiply and launch as on a
// device. It is late on purpose: what is queued on a stream runs when somebody waits for it, or for an event behind it, and not
// before. So a copy that does not wait for the kernel before it finds old numbers, and a host buffer that is written again too early
// changes what is copied. Fresh memory is NaN; frees happen in stream order; memory has an end (FOREBAY_EMULATED_MEMORY bytes).
//
// Devices are called "emulated": no figure of one is a figure of a GPU.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

extern "C" int emulate(const char* kernel, const unsigned* grid, const unsigned* block, unsigned shared_bytes, void** args);

#define API extern "C" __attribute__((visibility("default")))

namespace {

using Result = int;
constexpr Result OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700;

struct Stream;

struct Event {
    std::shared_ptr<struct Record> last;
};

// One recording of an event: a place in a stream.
struct Record {
    Stream* stream = nullptr;
    bool passed = false;
};

struct Operation {
    std::function<Result()> run;
    std::shared_ptr<Record> waits_for, records;
};

struct Stream {
    std::deque<Operation> queue;
};

std::recursive_mutex LOCK;
std::vector<Stream*> STREAMS;
Stream DEFAULT_STREAM;
std::map<uint64_t, size_t> ALLOCATED;   // device memory
std::map<uint64_t, size_t> PINNED;      // host memory that copies may touch late
size_t USED = 0, PEAK = 0;
Result STICKY = OK;
long LAUNCHES = 0;

long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

size_t capacity() { return static_cast<size_t>(setting("FOREBAY_EMULATED_MEMORY", 2L << 30)); }

Stream* stream_of(void* handle) {
    return reinterpret_cast<uintptr_t>(handle) <= 2 ? &DEFAULT_STREAM : static_cast<Stream*>(handle);
}

Result run_all(Stream* stream);

// Runs a stream until a record of it has passed.
Result run_until(const std::shared_ptr<Record>& record) {
    while (record && !record->passed && STICKY == OK) {
        Stream* stream = record->stream;
        if (stream->queue.empty()) return OK;
        Operation operation = std::move(stream->queue.front());
        stream->queue.pop_front();
        if (operation.waits_for) run_until(operation.waits_for);
        if (operation.run && STICKY == OK) STICKY = operation.run();
        if (operation.records) operation.records->passed = true;
    }
    return STICKY;
}

Result run_all(Stream* stream) {
    auto end = std::make_shared<Record>();
    end->stream = stream;
    stream->queue.push_back({nullptr, nullptr, end});
    return run_until(end);
}

Result run_everything() {
    run_all(&DEFAULT_STREAM);
    for (Stream* stream : STREAMS) run_all(stream);
    return STICKY;
}

Result push(void* stream, std::function<Result()> run) {
    if (STICKY != OK) return STICKY;
    stream_of(stream)->queue.push_back({std::move(run), nullptr, nullptr});
    return OK;
}

bool is_pinned(const void* pointer, size_t bytes) {
    const uint64_t at = reinterpret_cast<uint64_t>(pointer);
    auto after = PINNED.upper_bound(at);
    if (after == PINNED.begin()) return false;
    --after;
    return at + bytes <= after->first + after->second;
}

// Whether a range lies in one allocation of the device.
bool is_device(uint64_t at, size_t bytes) {
    auto after = ALLOCATED.upper_bound(at);
    if (after == ALLOCATED.begin()) return bytes == 0;
    --after;
    return at + bytes <= after->first + after->second;
}

Result allocate(uint64_t* out, size_t bytes) {
    const size_t whole = (std::max<size_t>(bytes, 1) + 511) / 512 * 512;
    if (USED + whole > capacity()) run_everything();  // what was freed in stream order comes back first
    if (USED + whole > capacity()) return OUT_OF_MEMORY;
    void* memory = aligned_alloc(512, whole);
    if (!memory) return OUT_OF_MEMORY;
    memset(memory, 0xff, whole);
    *out = reinterpret_cast<uint64_t>(memory);
    ALLOCATED[*out] = whole;
    USED += whole;
    PEAK = std::max(PEAK, USED);
    return OK;
}

Result release(uint64_t address) {
    auto found = ALLOCATED.find(address);
    if (found == ALLOCATED.end()) return INVALID_VALUE;
    USED -= found->second;
    memset(reinterpret_cast<void*>(address), 0xff, found->second);
    free(reinterpret_cast<void*>(address));
    ALLOCATED.erase(found);
    return OK;
}

struct Function {
    std::string name;
};

}  // namespace

#define LOCKED std::lock_guard<std::recursive_mutex> guard(LOCK)

// --- devices and contexts

API Result cuInit(unsigned) { return OK; }
API Result cuDriverGetVersion(int* version) { *version = 13000; return OK; }
API Result cuDeviceGetCount(int* count) { *count = static_cast<int>(setting("FOREBAY_EMULATED_DEVICES", 1)); return OK; }
API Result cuDeviceGet(int* device, int ordinal) { *device = ordinal; return OK; }
API Result cuDeviceGetName(char* name, int length, int device) {
    snprintf(name, static_cast<size_t>(length), "emulated device %d", device);
    return OK;
}
API Result cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = static_cast<unsigned char>(0xe0 + device);
    return OK;
}
API Result cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = capacity(); return OK; }
API Result cuDeviceGetAttribute(int* value, int attribute, int) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 115 ? 1 : 1024;
    return OK;
}
API Result cuDevicePrimaryCtxRetain(void** context, int) { *context = &STREAMS; return OK; }
API Result cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API Result cuCtxDestroy_v2(void*) { return OK; }
API Result cuCtxSetCurrent(void*) { return OK; }
API Result cuCtxGetCurrent(void** context) { *context = &STREAMS; return OK; }
API Result cuCtxGetDevice(int* device) { *device = 0; return OK; }
API Result cuCtxSynchronize() { LOCKED; return run_everything(); }
API Result cuGetErrorString(Result error, const char** text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "an error";
    return OK;
}
API Result cuGetErrorName(Result error, const char** text) { return cuGetErrorString(error, text); }

// --- memory

API Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    LOCKED;
    *free_bytes = capacity() - USED;
    *total = capacity();
    return OK;
}
API Result cuMemAlloc_v2(uint64_t* address, size_t bytes) { LOCKED; return STICKY ? STICKY : allocate(address, bytes); }
API Result cuMemFree_v2(uint64_t address) { LOCKED; run_everything(); return release(address); }
API Result cuMemAllocAsync(uint64_t* address, size_t bytes, void*) { LOCKED; return STICKY ? STICKY : allocate(address, bytes); }
API Result cuMemFreeAsync(uint64_t address, void* stream) {
    LOCKED;
    return push(stream, [address] { return release(address); });
}
API Result cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    LOCKED;
    *memory = aligned_alloc(512, (std::max<size_t>(bytes, 1) + 511) / 512 * 512);
    memset(*memory, 0xff, bytes);
    PINNED[reinterpret_cast<uint64_t>(*memory)] = bytes;
    return OK;
}
API Result cuMemFreeHost(void* memory) {
    LOCKED;
    PINNED.erase(reinterpret_cast<uint64_t>(memory));
    free(memory);
    return OK;
}
API Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    LOCKED;
    if (is_pinned(from, bytes)) {
        return push(stream, [=] {
            if (!is_device(to, bytes)) return ILLEGAL_ADDRESS;
            memcpy(reinterpret_cast<void*>(to), from, bytes);
            return OK;
        });
    }
    // Ordinary memory is read before the call returns.
    auto copy = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return push(stream, [=] {
        if (!is_device(to, bytes)) return ILLEGAL_ADDRESS;
        memcpy(reinterpret_cast<void*>(to), copy->data(), bytes);
        return OK;
    });
}
API Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    LOCKED;
    const Result queued = push(stream, [=] {
        if (!is_device(from, bytes)) return ILLEGAL_ADDRESS;
        memcpy(to, reinterpret_cast<void*>(from), bytes);
        return OK;
    });
    // Into ordinary memory the call returns when it is done.
    return queued != OK || is_pinned(to, bytes) ? queued : run_all(stream_of(stream));
}
API Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    LOCKED;
    return push(stream, [=] {
        if (!is_device(to, bytes) || !is_device(from, bytes)) return ILLEGAL_ADDRESS;
        memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
        return OK;
    });
}
API Result cuMemcpyPeerAsync(uint64_t to, void*, uint64_t from, void*, size_t bytes, void* stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
API Result cuMemsetD8Async(uint64_t at, unsigned char value, size_t bytes, void* stream) {
    LOCKED;
    return push(stream, [=] {
        if (!is_device(at, bytes)) return ILLEGAL_ADDRESS;
        memset(reinterpret_cast<void*>(at), value, bytes);
        return OK;
    });
}
API Result cuDeviceGetDefaultMemPool(void** pool, int) { *pool = &USED; return OK; }
API Result cuMemPoolSetAttribute(void*, int attribute, void* value) {
    LOCKED;
    if (attribute == 8 && *static_cast<uint64_t*>(value) == 0) PEAK = USED;
    return OK;
}
API Result cuMemPoolGetAttribute(void*, int attribute, void* value) {
    LOCKED;
    *static_cast<uint64_t*>(value) = attribute == 6 || attribute == 8 ? PEAK : USED;
    return OK;
}
API Result cuMemPoolTrimTo(void*, size_t) { return OK; }

// --- streams and events

API Result cuStreamCreate(void** stream, unsigned) {
    LOCKED;
    STREAMS.push_back(new Stream);
    *stream = STREAMS.back();
    return OK;
}
API Result cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API Result cuStreamDestroy_v2(void* handle) {
    LOCKED;
    Stream* stream = stream_of(handle);
    run_all(stream);
    STREAMS.erase(std::remove(STREAMS.begin(), STREAMS.end(), stream), STREAMS.end());
    return OK;  // not freed: an event may still name it
}
API Result cuStreamSynchronize(void* stream) { LOCKED; return run_all(stream_of(stream)); }
API Result cuStreamWaitEvent(void* stream, void* event, unsigned) {
    LOCKED;
    if (STICKY != OK) return STICKY;
    stream_of(stream)->queue.push_back({nullptr, static_cast<Event*>(event)->last, nullptr});
    return OK;
}
API Result cuStreamIsCapturing(void*, int* status) { *status = 0; return OK; }
API Result cuEventCreate(void** event, unsigned) { *event = new Event; return OK; }
API Result cuEventDestroy_v2(void* event) { delete static_cast<Event*>(event); return OK; }
API Result cuEventRecord(void* event, void* stream) {
    LOCKED;
    if (STICKY != OK) return STICKY;
    auto record = std::make_shared<Record>();
    record->stream = stream_of(stream);
    record->stream->queue.push_back({nullptr, nullptr, record});
    static_cast<Event*>(event)->last = record;
    return OK;
}
API Result cuEventSynchronize(void* event) { LOCKED; return run_until(static_cast<Event*>(event)->last); }
API Result cuEventQuery(void* event) {
    LOCKED;
    const auto& last = static_cast<Event*>(event)->last;
    return STICKY != OK ? STICKY : !last || last->passed ? OK : NOT_READY;
}
API Result cuEventElapsedTime_v2(float* milliseconds, void*, void*) { *milliseconds = 0.001f; return OK; }
API Result cuEventElapsedTime(float* milliseconds, void*, void*) { *milliseconds = 0.001f; return OK; }

// --- kernels

API Result cuModuleLoadData(void** module, const void*) { *module = &LAUNCHES; return OK; }
API Result cuModuleLoad(void** module, const char*) { *module = &LAUNCHES; return OK; }
API Result cuModuleUnload(void*) { return OK; }
API Result cuModuleGetFunction(void** function, void*, const char* name) { *function = new Function{name}; return OK; }
API Result cuFuncSetAttribute(void*, int, int) { return OK; }
API Result cuFuncGetAttribute(int* value, int, void*) { *value = 0; return OK; }
API Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared_bytes, void* stream, void** parameters, void**) {
    LOCKED;
    // Values are taken at launch. None is longer than 8 bytes, and at most 16 are expected; how many there are is the kernel's business.
    static const std::map<std::string, int> COUNTS = {{"embed_norm", 10}, {"layer_norm", 6}, {"attention", 6}, {"bias_gelu", 4}, {"pool", 6}};
    const std::string name = static_cast<Function*>(function)->name;
    int count = -1;
    for (const auto& [prefix, arguments] : COUNTS) {
        if (name.rfind(prefix, 0) == 0) count = arguments;
    }
    if (count < 0) {
        fprintf(stderr, "emulated driver: no kernel %s\n", name.c_str());
        return NOT_FOUND;
    }
    auto values = std::make_shared<std::vector<uint64_t>>(count);
    for (int i = 0; i < count; i++) memcpy(&(*values)[i], parameters[i], 8);
    const long fails = setting("FOREBAY_EMULATED_LOST_AT_LAUNCH", 0);
    return push(stream, [=] {
        if (fails > 0 && ++LAUNCHES >= fails) return ILLEGAL_ADDRESS;
        const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
        std::vector<void*> pointers;
        for (uint64_t& value : *values) pointers.push_back(&value);
        const int code = emulate(name.c_str(), grid, block, shared_bytes, pointers.data());
        if (code != 0) fprintf(stderr, "emulated driver: %s ended with %d\n", name.c_str(), code);
        return code == 0 ? OK : ILLEGAL_ADDRESS;
    });
}
API Result cuLaunchKernelEx(const void*, void*, void**, void**) { return NOT_FOUND; }

// --- for the libraries that queue on a stream themselves

int queue_on(void* stream, std::function<int()> run) { LOCKED; return push(stream, std::move(run)); }
bool on_device(uint64_t at, size_t bytes) { return is_device(at, bytes); }
