// Attention without tensor cores: f32, head dimensions that are no multiple of 8, and those from 129 to 256.
//
// The same online softmax as attention.cuh. A block takes 32 queries of one sequence and one head, each of its 4 warps 8 of
// them. For the scores a lane is a key, for the answer a lane is a dimension (`N` of them, 32 apart); both products read shared
// memory once per 8 queries. Keys and values take turns in one buffer, which keeps a head of 256 below 72 KB.
//
// Reads 3 · dim · sizeof(T) per token once from memory, writes dim · sizeof(T). 32 texts of 512 tokens, 12 heads of 64 in f32:
// 25.8 GFLOP, floor 0.43 ms at 60 TFLOP/s of f32 without tensor cores; shared memory allows about half of that.
// Reached: not run.
#pragma once

#include "numbers.cuh"

constexpr unsigned PLAIN_WARPS = 4;
constexpr unsigned PLAIN_THREADS = PLAIN_WARPS * WARP;
constexpr unsigned PLAIN_WARP_QUERIES = 8;
constexpr unsigned PLAIN_QUERIES = PLAIN_WARPS * PLAIN_WARP_QUERIES;
constexpr unsigned PLAIN_KEYS = WARP;

// Reads rows of `head_dim` numbers, `stride` apart, times `factor`; rows up to 32 and columns up to `width` become 0.
template <class T>
DEVICE void read_rows(float* rows, unsigned row_stride, const T* from, unsigned long long stride, unsigned valid,
                      unsigned width, unsigned head_dim, float factor) {
    for (unsigned row = warp_index(); row < WARP; row += PLAIN_WARPS) {
        for (unsigned i = lane_index(); i < width; i += WARP) {
            const bool exists = row < valid && i < head_dim;
            rows[row * row_stride + i] = exists ? to_float(from[row * stride + i]) * factor : 0.0f;
        }
    }
}

// Tiles are those of attention.cuh at 64 queries; blockIdx.z says which half of one.
template <class T, unsigned N>
DEVICE void attention_plain(const T* qkv, const unsigned* offsets, const unsigned* tiles, T* out, unsigned heads,
                            unsigned head_dim) {
    constexpr unsigned R = PLAIN_WARP_QUERIES;
    const unsigned row = tiles[2 * blockIdx.x], tile_first = tiles[2 * blockIdx.x + 1];
    const unsigned long long begin = offsets[row];
    const unsigned length = offsets[row + 1] - offsets[row];
    // Before anything is added to it: a padded list says the largest number.
    if (tile_first >= length || length - tile_first <= blockIdx.z * PLAIN_QUERIES) return;
    const unsigned first = tile_first + blockIdx.z * PLAIN_QUERIES;
    const unsigned long long dim = static_cast<unsigned long long>(heads) * head_dim;
    const unsigned long long stride = 3 * dim, column = static_cast<unsigned long long>(blockIdx.y) * head_dim;
    const T* key = qkv + begin * stride + dim + column;
    const unsigned queries = min(length - first, PLAIN_QUERIES);
    const unsigned lane = lane_index(), warp_first = warp_index() * R;

    const unsigned width = (head_dim + 3) / 4 * 4;
    // Odd: lanes that read one column of 32 rows read 32 banks.
    const unsigned key_stride = width + 1;
    float* all_queries = reinterpret_cast<float*>(dynamic_shared());
    float* tile = all_queries + PLAIN_QUERIES * width;
    float* weights = tile + PLAIN_KEYS * key_stride + warp_first * PLAIN_KEYS;
    const float* q = all_queries + warp_first * width;
    const float scale = 1.44269504088896340736f / sqrtf(static_cast<float>(head_dim));
    read_rows(all_queries, width, qkv + (begin + first) * stride + column, stride, queries, width, head_dim, scale);

    float answer[R][N], largest[R], sum[R];
#pragma unroll
    for (unsigned r = 0; r < R; r++) {
        largest[r] = -INFINITY;
        sum[r] = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < N; i++) answer[r][i] = 0.0f;
    }
    for (unsigned done = 0; done < length; done += PLAIN_KEYS) {
        const unsigned valid = min(length - done, PLAIN_KEYS);
        const T* keys = key + done * stride;
        block_barrier();
        read_rows(tile, key_stride, keys, stride, valid, width, head_dim, 1.0f);
        block_barrier();
        if (warp_first < queries) {
            float s[R];
#pragma unroll
            for (unsigned r = 0; r < R; r++) s[r] = 0.0f;
            for (unsigned i = 0; i < width; i += 4) {
                float k[4];
#pragma unroll
                for (unsigned j = 0; j < 4; j++) k[j] = tile[lane * key_stride + i + j];
#pragma unroll
                for (unsigned r = 0; r < R; r++) {
                    float four[4];
                    load_chunk(four, q + r * width + i, 4, true);
#pragma unroll
                    for (unsigned j = 0; j < 4; j++) s[r] = fmaf(four[j], k[j], s[r]);
                }
            }
#pragma unroll
            for (unsigned r = 0; r < R; r++) {
                if (lane >= valid) s[r] = -INFINITY;
                const float most = fmaxf(largest[r], warp_max(s[r]));
                const float before = exp2_approximate(largest[r] - most), e = exp2_approximate(s[r] - most);
                largest[r] = most;
                sum[r] = fmaf(sum[r], before, e);
                weights[r * PLAIN_KEYS + lane] = e;
#pragma unroll
                for (unsigned i = 0; i < N; i++) answer[r][i] *= before;
            }
        }
        block_barrier();
        read_rows(tile, key_stride, keys + dim, stride, valid, width, head_dim, 1.0f);
        block_barrier();
        if (warp_first < queries) {
            for (unsigned at = 0; at < PLAIN_KEYS; at += 4) {
                float v[4][N];
#pragma unroll
                for (unsigned j = 0; j < 4; j++) {
#pragma unroll
                    for (unsigned i = 0; i < N; i++) {
                        // Lanes past the last dimension repeat it and are not stored.
                        v[j][i] = tile[(at + j) * key_stride + min(i * WARP + lane, width - 1)];
                    }
                }
#pragma unroll
                for (unsigned r = 0; r < R; r++) {
                    float e[4];
                    load_chunk(e, weights + r * PLAIN_KEYS + at, 4, true);
#pragma unroll
                    for (unsigned j = 0; j < 4; j++) {
#pragma unroll
                        for (unsigned i = 0; i < N; i++) answer[r][i] = fmaf(e[j], v[j][i], answer[r][i]);
                    }
                }
            }
        }
    }
    if (warp_first >= queries) return;
#pragma unroll
    for (unsigned r = 0; r < R; r++) {
        const float share = 1.0f / warp_sum(sum[r]);
        if (warp_first + r >= queries) continue;
        T* to = out + (begin + first + warp_first + r) * dim + column;
#pragma unroll
        for (unsigned i = 0; i < N; i++) {
            if (i * WARP + lane < head_dim) to[i * WARP + lane] = narrow<T>(answer[r][i] * share);
        }
    }
}

#define PLAIN_ENTRY(suffix, T, D)                                                                                    \
    ENTRY(PLAIN_THREADS, 1, attention_plain_d##D##_##suffix,                                                         \
          (const T* qkv, const unsigned* offsets, const unsigned* tiles, T* out, unsigned heads, unsigned head_dim), \
          (attention_plain<T, D / 32>(qkv, offsets, tiles, out, heads, head_dim)))
#define PLAIN_ENTRIES(suffix, T) \
    PLAIN_ENTRY(suffix, T, 32)   \
    PLAIN_ENTRY(suffix, T, 64)   \
    PLAIN_ENTRY(suffix, T, 128)  \
    PLAIN_ENTRY(suffix, T, 256)
ENTRY_PER_TYPE(PLAIN_ENTRIES)
