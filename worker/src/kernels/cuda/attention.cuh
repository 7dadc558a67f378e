// Attention over packed sequences on tensor cores, for 16-bit numbers.
//
// softmax(Q K^T / sqrt d) V per sequence and head, in one pass over the keys with a running maximum and sum (online softmax;
// Milakov and Gimelshein, 2018; Dao, 2023): scores never leave registers. A block takes one tile of queries of one sequence and
// one head; each of its 4 warps owns 16 or 32 queries (`M` = 1 or 2) and all keys, so warps share nothing but the tiles of
// keys and values, which arrive in two stages of shared memory while the tile before is computed, with one barrier a tile.
//
// * `M` = 1 (64 queries) is for short texts: few registers, many blocks per multiprocessor, no idle lanes in 25 tokens of which
//   the second half is missing. `M` = 2 (128 queries) uses every key and value that it reads from shared memory for twice the
//   work: at `M` = 1 reading them takes as long as the tensor cores do.
// * Both compute a query in the same order of operations, so the choice does not show in the bits.
// * Head dimensions are padded to `D` with zeroes on the way into shared memory; keys past the end count as -inf, values as 0.
// * Rows of shared memory are swizzled: the 8 rows that one matrix load touches lie in 8 different groups of banks.
//
// Pointers are aligned to 16 bytes and `head_dim` is a multiple of 8; anything else is attention_plain's.
//
// Reads 3 · dim · 2 bytes per token once from memory (tiles of one sequence meet in the second level cache), writes dim · 2.
// 512 texts of 25 tokens, 12 heads of 32: 39 MB, floor 9 us at 4.3 TB/s. 32 texts of 512 tokens, 12 heads of 64: 4 · 512 · dim
// flops per token, 25.8 GFLOP, floor 33 us at 790 TFLOP/s; mma.sync reaches about 60 % of what the wgmma of that figure does,
// and one exponential per score takes as long as its share of both products, hence 40 % as the target. Reached: not run.
#pragma once

#include "numbers.cuh"

constexpr unsigned ATTENTION_WARPS = 4;
constexpr unsigned ATTENTION_THREADS = ATTENTION_WARPS * WARP;
// Keys of one tile. Queries of one tile: 64 · M. launch.rs repeats both, and the size of shared memory.
constexpr unsigned ATTENTION_KEYS = 64;
constexpr float LOG2_E = 1.44269504088896340736f;

// Where chunk `chunk` (8 numbers) of row `row` lies in a tile of rows of `D` numbers.
template <unsigned D> DEVICE unsigned swizzled(unsigned row, unsigned chunk) {
    // Chunks that a row can permute without leaving it, and rows that together cover all banks once.
    constexpr unsigned WIDTH = D % 64 == 0 ? 8 : D % 32 == 0 ? 4 : 2;
    constexpr unsigned ROWS = 8 / WIDTH;
    return row * D + ((chunk ^ (row / ROWS % WIDTH)) * 8);
}

// Starts copying rows of `head_dim` numbers, `stride` apart, into a tile of `ROWS` rows. Columns up to `D` and rows up to the
// next multiple of 16 become 0; rows after that are left alone, and nobody reads them.
template <class T, unsigned D, unsigned ROWS>
DEVICE void copy_tile(T* tile, const T* from, unsigned long long stride, unsigned rows, unsigned head_dim) {
    constexpr unsigned CHUNKS = D / 8;
    static_assert(ROWS * CHUNKS % ATTENTION_THREADS == 0, "every thread copies the same number of chunks");
#pragma unroll
    for (unsigned i = 0; i < ROWS * CHUNKS / ATTENTION_THREADS; i++) {
        const unsigned index = i * ATTENTION_THREADS + threadIdx.x;
        const unsigned row = index / CHUNKS, chunk = index % CHUNKS;
        if (row < (rows + 15) / 16 * 16) {
            const bool exists = row < rows && chunk * 8 < head_dim;
            const T* source = exists ? from + row * stride + chunk * 8 : from;
            copy16_async(tile + swizzled<D>(row, chunk), source, exists ? 16 : 0);
        }
    }
}

// What one warp knows of its 16 · M queries. Lane l has of each 16 × 8 block rows l / 4 and l / 4 + 8, two columns each.
template <class T, unsigned D, unsigned M> struct WarpQueries {
    // Registers do not hold wide queries beside their answers: those are read again for every tile.
    static constexpr bool KEPT = M * D <= 128;
    // First of the warp's rows in the tile of queries.
    const T* tile;
    unsigned q[M][KEPT ? D / 16 : 1][4];
    float answer[M][D / 8][4];
    // Of raw scores, and this lane's share of the sum of their exponentials, for its two rows.
    float largest[M][2];
    float sum[M][2];

    DEVICE void read(unsigned (&out)[4], unsigned m, unsigned d) const {
        load_matrices(out, tile + swizzled<D>(m * 16 + lane_index() % 16, 2 * d + lane_index() / 16));
    }

    DEVICE void start() {
#pragma unroll
        for (unsigned m = 0; m < M; m++) {
            if (KEPT) {
#pragma unroll
                for (unsigned d = 0; d < D / 16; d++) read(q[m][KEPT ? d : 0], m, d);
            }
#pragma unroll
            for (unsigned n = 0; n < D / 8; n++) {
#pragma unroll
                for (unsigned i = 0; i < 4; i++) answer[m][n][i] = 0.0f;
            }
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                largest[m][half] = -INFINITY;
                sum[m][half] = 0.0f;
            }
        }
    }

    // One tile of which `valid` keys exist; `FULL` promises all of them. `scale` turns scores into exponents of 2.
    template <bool FULL> DEVICE void attend(const T* keys, const T* values, unsigned valid, float scale) {
        float s[M][ATTENTION_KEYS / 8][4];
        scores<FULL>(s, keys, valid);
        if (!FULL) mask(s, valid);
#pragma unroll
        for (unsigned m = 0; m < M; m++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) exponentials<FULL>(s[m], m, half, valid, scale);
        }
        add_values<FULL>(s, values, valid);
    }

    template <bool FULL> DEVICE void scores(float (&s)[M][ATTENTION_KEYS / 8][4], const T* keys, unsigned valid) const {
        const unsigned lane = lane_index();
#pragma unroll
        for (unsigned m = 0; m < M; m++) {
#pragma unroll
            for (unsigned n = 0; n < ATTENTION_KEYS / 8; n++) {
#pragma unroll
                for (unsigned i = 0; i < 4; i++) s[m][n][i] = 0.0f;
            }
        }
#pragma unroll
        for (unsigned d = 0; d < D / 16; d++) {
            unsigned left[M][4];
#pragma unroll
            for (unsigned m = 0; m < M; m++) {
                if (KEPT) {
#pragma unroll
                    for (unsigned i = 0; i < 4; i++) left[m][i] = q[m][KEPT ? d : 0][i];
                } else {
                    read(left[m], m, d);
                }
            }
#pragma unroll
            for (unsigned block = 0; block < ATTENTION_KEYS / 16; block++) {
                if (FULL || block * 16 < valid) {
                    // Keys are rows here and columns of the product: 8 keys by 16 dimensions, twice.
                    unsigned k[4];
                    const unsigned key = block * 16 + lane / 16 * 8 + lane % 8;
                    load_matrices(k, keys + swizzled<D>(key, 2 * d + lane / 8 % 2));
#pragma unroll
                    for (unsigned m = 0; m < M; m++) {
                        multiply_add<T>(s[m][2 * block], left[m], k[0], k[1]);
                        multiply_add<T>(s[m][2 * block + 1], left[m], k[2], k[3]);
                    }
                }
            }
        }
    }

    DEVICE static void mask(float (&s)[M][ATTENTION_KEYS / 8][4], unsigned valid) {
        const unsigned column = lane_index() % 4 * 2;
#pragma unroll
        for (unsigned m = 0; m < M; m++) {
#pragma unroll
            for (unsigned n = 0; n < ATTENTION_KEYS / 8; n++) {
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
                    if (n * 8 + column + i % 2 >= valid) s[m][n][i] = -INFINITY;
                }
            }
        }
    }

    // Scores of one row become exponentials relative to the largest so far; what was summed before is scaled to it.
    template <bool FULL>
    DEVICE void exponentials(float (&s)[ATTENTION_KEYS / 8][4], unsigned m, unsigned half, unsigned valid, float scale) {
        float most = largest[m][half];
#pragma unroll
        for (unsigned n = 0; n < ATTENTION_KEYS / 8; n++) most = fmaxf(most, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        // Four lanes share a row.
        most = fmaxf(most, shuffle_xor(most, 1));
        most = fmaxf(most, shuffle_xor(most, 2));
        const float shift = most * scale;
        const float before = exp2_approximate(fmaf(largest[m][half], scale, -shift));
        largest[m][half] = most;
        float total = 0.0f;
#pragma unroll
        for (unsigned n = 0; n < ATTENTION_KEYS / 8; n++) {
            if (FULL || n * 8 < valid) {
#pragma unroll
                for (unsigned i = 2 * half; i < 2 * half + 2; i++) {
                    s[n][i] = exp2_approximate(fmaf(s[n][i], scale, -shift));
                    total += s[n][i];
                }
            } else {
                s[n][2 * half] = s[n][2 * half + 1] = 0.0f;
            }
        }
        sum[m][half] = fmaf(sum[m][half], before, total);
#pragma unroll
        for (unsigned n = 0; n < D / 8; n++) {
            answer[m][n][2 * half] *= before;
            answer[m][n][2 * half + 1] *= before;
        }
    }

    // answer += exponentials · values. Accumulators of the first product lie as the left side of the second wants them.
    template <bool FULL>
    DEVICE void add_values(const float (&s)[M][ATTENTION_KEYS / 8][4], const T* values, unsigned valid) {
        const unsigned lane = lane_index();
#pragma unroll
        for (unsigned block = 0; block < ATTENTION_KEYS / 16; block++) {
            if (FULL || block * 16 < valid) {
                unsigned left[M][4];
#pragma unroll
                for (unsigned m = 0; m < M; m++) {
                    const float(&a)[4] = s[m][2 * block];
                    const float(&b)[4] = s[m][2 * block + 1];
                    left[m][0] = round_pair<T>(a[0], a[1]);
                    left[m][1] = round_pair<T>(a[2], a[3]);
                    left[m][2] = round_pair<T>(b[0], b[1]);
                    left[m][3] = round_pair<T>(b[2], b[3]);
                }
#pragma unroll
                for (unsigned d = 0; d < D / 16; d++) {
                    unsigned v[4];
                    load_matrices_transposed(v, values + swizzled<D>(block * 16 + lane % 16, 2 * d + lane / 16));
#pragma unroll
                    for (unsigned m = 0; m < M; m++) {
                        multiply_add<T>(answer[m][2 * d], left[m], v[0], v[1]);
                        multiply_add<T>(answer[m][2 * d + 1], left[m], v[2], v[3]);
                    }
                }
            }
        }
    }

    // Writes `rows` answers, `stride` apart. They go through the warp's own rows of the tile of queries, which nobody needs any
    // more, so that memory sees 16 bytes per lane.
    DEVICE void finish(T* shared, T* out, unsigned long long stride, unsigned rows, unsigned head_dim) {
        const unsigned lane = lane_index();
        warp_barrier();
#pragma unroll
        for (unsigned m = 0; m < M; m++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                float total = sum[m][half];
                total += shuffle_xor(total, 1);
                total += shuffle_xor(total, 2);
                const float share = 1.0f / total;
#pragma unroll
                for (unsigned n = 0; n < D / 8; n++) {
                    const float x = saturate<T>(answer[m][n][2 * half] * share);
                    const float y = saturate<T>(answer[m][n][2 * half + 1] * share);
                    T* at = shared + swizzled<D>(m * 16 + half * 8 + lane / 4, n) + lane % 4 * 2;
                    store4(at, round_pair<T>(x, y));
                }
            }
        }
        warp_barrier();
        constexpr unsigned CHUNKS = D / 8;
#pragma unroll
        for (unsigned i = 0; i < M * 16 * CHUNKS / WARP; i++) {
            const unsigned index = i * WARP + lane;
            const unsigned row = index / CHUNKS, chunk = index % CHUNKS;
            if (row < rows && chunk * 8 < head_dim) {
                store16(out + row * stride + chunk * 8, load16(shared + swizzled<D>(row, chunk)));
            }
        }
    }
};

// A tile that begins past the end of its sequence does nothing, so a list of tiles may be padded.
template <class T, unsigned D, unsigned M>
DEVICE void attention(const T* qkv, const unsigned* offsets, const unsigned* tiles, T* out, unsigned heads,
                      unsigned head_dim) {
    constexpr unsigned KEYS = ATTENTION_KEYS, QUERIES = ATTENTION_WARPS * 16 * M;
    const unsigned row = tiles[2 * blockIdx.x], first = tiles[2 * blockIdx.x + 1];
    const unsigned long long begin = offsets[row];
    const unsigned length = offsets[row + 1] - offsets[row];
    if (first >= length) return;
    const unsigned long long dim = static_cast<unsigned long long>(heads) * head_dim;
    const unsigned long long stride = 3 * dim, column = static_cast<unsigned long long>(blockIdx.y) * head_dim;
    const T* query = qkv + (begin + first) * stride + column;
    const T* key = qkv + begin * stride + dim + column;
    const T* value = key + dim;
    const unsigned queries = min(length - first, QUERIES);

    T* q = reinterpret_cast<T*>(dynamic_shared());
    // Stage i: keys at stages + 2 i tiles, values behind them.
    T* stages = q + QUERIES * D;
    copy_tile<T, D, QUERIES>(q, query, stride, queries, head_dim);
    copy_tile<T, D, KEYS>(stages, key, stride, min(length, KEYS), head_dim);
    copy_tile<T, D, KEYS>(stages + KEYS * D, value, stride, min(length, KEYS), head_dim);

    // A warp without queries still copies and keeps the barriers, and computes nothing.
    const unsigned warp_first = warp_index() * 16 * M;
    const bool computes = warp_first < queries;
    const float scale = LOG2_E / sqrtf(static_cast<float>(head_dim));
    WarpQueries<T, D, M> warp;
    warp.tile = q + warp_first * D;
    for (unsigned done = 0, stage = 0; done < length; done += KEYS, stage ^= 1) {
        // This tile is here, and the one before is not needed any more: its stage can be filled.
        wait_for_copies();
        block_barrier();
        const T* keys = stages + stage * 2 * KEYS * D;
        if (done + KEYS < length) {
            T* next = stages + (stage ^ 1) * 2 * KEYS * D;
            const unsigned long long skipped = (done + KEYS) * stride;
            const unsigned rest = min(length - done - KEYS, KEYS);
            copy_tile<T, D, KEYS>(next, key + skipped, stride, rest, head_dim);
            copy_tile<T, D, KEYS>(next + KEYS * D, value + skipped, stride, rest, head_dim);
        }
        if (!computes) continue;
        if (done == 0) warp.start();
        if (length - done >= KEYS) {
            warp.template attend<true>(keys, keys + KEYS * D, KEYS, scale);
        } else {
            warp.template attend<false>(keys, keys + KEYS * D, length - done, scale);
        }
    }
    if (computes) {
        T* to = out + (begin + first + warp_first) * dim + column;
        warp.finish(q + warp_first * D, to, dim, queries - warp_first, head_dim);
    }
}

#define ATTENTION_ENTRY(suffix, T, D, M, queries, blocks)                                                            \
    ENTRY(ATTENTION_THREADS, blocks, attention_d##D##_q##queries##_##suffix,                                         \
          (const T* qkv, const unsigned* offsets, const unsigned* tiles, T* out, unsigned heads, unsigned head_dim), \
          (attention<T, D, M>(qkv, offsets, tiles, out, heads, head_dim)))
#define ATTENTION_ENTRIES(suffix, T)             \
    ATTENTION_ENTRY(suffix, T, 16, 1, 64, 8)     \
    ATTENTION_ENTRY(suffix, T, 32, 1, 64, 6)     \
    ATTENTION_ENTRY(suffix, T, 64, 1, 64, 4)     \
    ATTENTION_ENTRY(suffix, T, 96, 1, 64, 3)     \
    ATTENTION_ENTRY(suffix, T, 128, 1, 64, 2)    \
    ATTENTION_ENTRY(suffix, T, 16, 2, 128, 3)    \
    ATTENTION_ENTRY(suffix, T, 32, 2, 128, 3)    \
    ATTENTION_ENTRY(suffix, T, 64, 2, 128, 2)    \
    ATTENTION_ENTRY(suffix, T, 96, 2, 128, 2)    \
    ATTENTION_ENTRY(suffix, T, 128, 2, 128, 2)
ATTENTION_ENTRIES(f16, __half)
ATTENTION_ENTRIES(bf16, __nv_bfloat16)
