// cuBLASLt's product on the CPU, and as much of cuBLAS and cuRAND as candle opens with a device.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

// In driver.cpp.
int queue_on(void* stream, std::function<int()> run);
bool on_device(uint64_t at, size_t bytes);

namespace {

constexpr int SUCCESS = 0, INVALID = 7, UNSUPPORTED = 15;
// cudaDataType_t
constexpr int F32 = 0, F16 = 2, BF16 = 14;
// cublasLtMatmulDescAttributes_t, cublasLtEpilogue_t
constexpr int TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS_POINTER = 8;
constexpr int EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4, EPILOGUE_GELU_BIAS = 36;

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t leading;
};

struct Description {
    int compute = 0, scale = 0;
    int transpose_a = 0, transpose_b = 0, epilogue = EPILOGUE_DEFAULT;
    uint64_t bias = 0;
};

size_t size_of(int type) { return type == F32 ? 4 : 2; }

float read(int type, uint64_t base, uint64_t index) {
    if (type == F32) return reinterpret_cast<const float*>(base)[index];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(base)[index];
    if (type == BF16) {
        const uint32_t wide = static_cast<uint32_t>(bits) << 16;
        float x;
        memcpy(&x, &wide, 4);
        return x;
    }
    _Float16 x;
    memcpy(&x, &bits, 2);
    return static_cast<float>(x);
}

void write(int type, uint64_t base, uint64_t index, float x) {
    if (type == F32) {
        reinterpret_cast<float*>(base)[index] = x;
    } else if (type == BF16) {
        uint32_t bits;
        memcpy(&bits, &x, 4);
        const bool nan = x != x;
        const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
        reinterpret_cast<uint16_t*>(base)[index] = nan ? 0x7fc0 : static_cast<uint16_t>(rounded >> 16);
    } else {
        const _Float16 narrow = static_cast<_Float16>(x);
        memcpy(reinterpret_cast<uint16_t*>(base) + index, &narrow, 2);
    }
}

float gelu_tanh(float x) { return 0.5f * x * (1.0f + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x))); }

bool fits(const Layout& layout, uint64_t base) {
    return on_device(base, (static_cast<uint64_t>(layout.leading) * (layout.columns - 1) + layout.rows) * size_of(layout.type));
}

}  // namespace

API int cublasLtCreate(void** handle) { *handle = new int; return SUCCESS; }
API int cublasLtDestroy(void* handle) { delete static_cast<int*>(handle); return SUCCESS; }
API int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *layout = new Layout{type, rows, columns, leading};
    return SUCCESS;
}
API int cublasLtMatrixLayoutSetAttribute(void*, int, const void*, size_t) { return UNSUPPORTED; }
API int cublasLtMatrixLayoutDestroy(void* layout) { delete static_cast<Layout*>(layout); return SUCCESS; }
API int cublasLtMatmulDescCreate(void** description, int compute, int scale) {
    *description = new Description{compute, scale};
    return SUCCESS;
}
API int cublasLtMatmulDescDestroy(void* description) { delete static_cast<Description*>(description); return SUCCESS; }
API int cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    auto* description = static_cast<Description*>(handle);
    int number = 0;
    if (attribute == BIAS_POINTER) {
        if (bytes != 8) return INVALID;
        memcpy(&description->bias, value, 8);
        return SUCCESS;
    }
    if (bytes != 4) return INVALID;
    memcpy(&number, value, 4);
    switch (attribute) {
        case TRANSA: description->transpose_a = number; return SUCCESS;
        case TRANSB: description->transpose_b = number; return SUCCESS;
        case EPILOGUE: description->epilogue = number; return SUCCESS;
        default: return UNSUPPORTED;
    }
}
API int cublasLtMatmulPreferenceCreate(void** preference) { *preference = new int; return SUCCESS; }
API int cublasLtMatmulPreferenceSetAttribute(void*, int attribute, const void*, size_t bytes) {
    return attribute == 1 && bytes == 8 ? SUCCESS : INVALID;  // the size of the workspace
}
API int cublasLtMatmulPreferenceDestroy(void* preference) { delete static_cast<int*>(preference); return SUCCESS; }
// The result begins with the algorithm (8 words of 64 bits), then the workspace's size and a status.
API int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, unsigned char* result, int* count) {
    memset(result, 0, 64 + 8 + 4 + 4 + 16);
    *count = 1;
    return SUCCESS;
}
API int cublasLtMatmul(void*, void* description_handle, const void* alpha, const void* a, void* a_handle, const void* b, void* b_handle,
                       const void* beta, const void* c, void* c_handle, void* d, void* d_handle, const void*, void*, size_t,
                       void* stream) {
    const Description description = *static_cast<Description*>(description_handle);
    const Layout la = *static_cast<Layout*>(a_handle), lb = *static_cast<Layout*>(b_handle), ld = *static_cast<Layout*>(d_handle);
    (void)c_handle;
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    const uint64_t at_a = reinterpret_cast<uint64_t>(a), at_b = reinterpret_cast<uint64_t>(b), at_c = reinterpret_cast<uint64_t>(c),
                   at_d = reinterpret_cast<uint64_t>(d);
    if (description.transpose_a != 1 || description.transpose_b != 0 || la.rows != lb.rows || la.columns != ld.rows || lb.columns != ld.columns) {
        fprintf(stderr, "emulated cuBLASLt: shapes do not belong together\n");
        return INVALID;
    }
    for (const uint64_t at : {at_a, at_b, at_d, description.bias}) {
        if (at % 256 != 0) {
            fprintf(stderr, "emulated cuBLASLt: an address is not aligned as it was promised\n");
            return INVALID;
        }
    }
    return queue_on(stream, [=] {
        const uint64_t n = ld.rows, rows = ld.columns, k = la.rows;
        if (!fits(la, at_a) || !fits(lb, at_b) || !fits(ld, at_d)) {
            fprintf(stderr, "emulated cuBLASLt: %lu x %lu x %lu leaves its memory\n", rows, k, n);
            return 700;
        }
        std::vector<float> weights(n * k), x(k);
        for (uint64_t j = 0; j < n; j++) {
            for (uint64_t i = 0; i < k; i++) weights[j * k + i] = read(la.type, at_a, j * la.leading + i);
        }
        for (uint64_t row = 0; row < rows; row++) {
            for (uint64_t i = 0; i < k; i++) x[i] = read(lb.type, at_b, row * lb.leading + i);
            for (uint64_t j = 0; j < n; j++) {
                const float* w = &weights[j * k];
                float partial[16] = {};
                uint64_t i = 0;
                for (; i + 16 <= k; i += 16) {
                    for (int lane = 0; lane < 16; lane++) partial[lane] += w[i + lane] * x[i + lane];
                }
                float sum = 0;
                for (; i < k; i++) sum += w[i] * x[i];
                for (float p : partial) sum += p;
                const uint64_t index = row * ld.leading + j;
                float y = scale * sum;
                if (keep != 0) y += keep * read(ld.type, at_c, index);
                if (description.epilogue != EPILOGUE_DEFAULT) y += read(ld.type, description.bias, j);
                if (description.epilogue == EPILOGUE_GELU_BIAS) y = gelu_tanh(y);
                write(ld.type, at_d, index, y);
            }
        }
        return 0;
    });
}

API int cublasCreate_v2(void** handle) { *handle = new int; return SUCCESS; }
API int cublasDestroy_v2(void* handle) { delete static_cast<int*>(handle); return SUCCESS; }
API int cublasSetStream_v2(void*, void*) { return SUCCESS; }
API int curandCreateGenerator(void** handle, int) { *handle = new int; return SUCCESS; }
API int curandDestroyGenerator(void* handle) { delete static_cast<int*>(handle); return SUCCESS; }
API int curandSetStream(void*, void*) { return SUCCESS; }
API int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return SUCCESS; }
