/* Stands in for libnvidia-ml.so.1 in tests: a whole GPU, one divided into two of at most four slices, and one that is lost.
   Only the functions that are called; layouts and numbers as in nvml.h of CUDA 13. */
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPU_IS_LOST = 15 };

typedef struct { const char *uuid, *name; unsigned long long gib; int parent; } device;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned gpu, memory; } utilization;

static device devices[] = {
    {"GPU-aaaa0000-0000-0000-0000-000000000000", "NVIDIA H100 80GB HBM3", 80, -1},
    {"GPU-bbbb0000-0000-0000-0000-000000000000", "NVIDIA H200", 141, -1},
    {"MIG-cccc0000-0000-0000-0000-000000000000", "NVIDIA H200 MIG 1g.18gb", 18, 1},
    {"MIG-dddd0000-0000-0000-0000-000000000000", "NVIDIA H200 MIG 2g.35gb", 35, 1},
};

static int text(char *to, unsigned length, const char *from) {
    snprintf(to, length, "%s", from);
    return SUCCESS;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
int nvmlSystemGetDriverVersion(char *to, unsigned length) { return text(to, length, "580.65.06"); }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **found) {
    if (index > 1) return GPU_IS_LOST;
    *found = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device **found) {
    for (unsigned i = 0; i < 4; i++)
        if (!strcmp(devices[i].uuid, uuid)) { *found = &devices[i]; return SUCCESS; }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(device *of, char *to, unsigned length) { return text(to, length, of->uuid); }
int nvmlDeviceGetName(device *of, char *to, unsigned length) { return text(to, length, of->name); }

int nvmlDeviceGetCudaComputeCapability(device *of, int *major, int *minor) {
    (void)of;
    *major = 9, *minor = 0;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(device *of, memory_v2 *memory) {
    if (memory->version != (sizeof *memory | 2u << 24)) return INVALID_ARGUMENT;
    memory->total = of->gib << 30, memory->used = 1ull << 30, memory->reserved = 1ull << 28;
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(device *of, unsigned *current, unsigned *pending) {
    if (of == &devices[0]) return NOT_SUPPORTED;
    *current = *pending = 1;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(device *of, unsigned *count) { (void)of; *count = 4; return SUCCESS; }

/* The slices are at 0 and 2: places may be empty. */
int nvmlDeviceGetMigDeviceHandleByIndex(device *of, unsigned index, device **slice) {
    (void)of;
    if (index != 0 && index != 2) return NOT_FOUND;
    *slice = &devices[2 + index / 2];
    return SUCCESS;
}

int nvmlDeviceIsMigDeviceHandle(device *of, unsigned *is_slice) { *is_slice = of->parent >= 0; return SUCCESS; }

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device *slice, device **gpu) {
    if (slice->parent < 0) return INVALID_ARGUMENT;
    *gpu = &devices[slice->parent];
    return SUCCESS;
}

/* As the driver does: none of a GPU in MIG mode, nor of its slices; and no heat of a slice. */
int nvmlDeviceGetUtilizationRates(device *of, utilization *busy) {
    if (of != &devices[0]) return NOT_SUPPORTED;
    busy->gpu = 87, busy->memory = 40;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(device *of, int sensor, unsigned *celsius) {
    if (of->parent >= 0 || sensor != 0) return INVALID_ARGUMENT;
    *celsius = 61;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(device *of, unsigned *milliwatts) {
    if (of->parent >= 0) return NOT_SUPPORTED;
    *milliwatts = 412500;
    return SUCCESS;
}
