//! With which grid each kernel is started: from shapes alone, so it is tested where there is no GPU.
//!
//! Repeats the constants of the kernels' sources that say how much one block does.

use crate::device::Precision;

/// One start of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory. Beyond 48 KiB a kernel must be allowed to have it.
    pub shared_bytes: u32,
}

const NORM_THREADS: usize = 128;
const NORM_WARPS: usize = NORM_THREADS / 32;
/// Rows up to this belong to a warp, wider ones to a block.
const NORM_WARP_DIM: usize = 1024;
const GELU_THREADS: usize = 64;
const GELU_ROWS: usize = 8;
const POOL_THREADS: usize = 256;
const POOL_COLUMN_CHUNKS: usize = 8;
const ATTENTION_THREADS: usize = 128;
/// Keys of one tile, in two stages.
const ATTENTION_KEYS: usize = 64;
const PLAIN_QUERIES: usize = 32;
const PLAIN_KEYS: usize = 32;
/// Widest head that any kernel takes.
pub const MOST_HEAD_DIM: usize = 256;

/// Queries of one block of attention: see [`tile_queries`].
const SHORT_TILE: usize = 64;
const LONG_TILE: usize = 128;

/// Numbers of 16 bytes.
fn chunk(precision: Precision) -> usize {
    16 / precision.size_bytes()
}

fn flat(kernel: &'static str, grid: [usize; 2], threads: usize) -> Launch {
    let [x, y] = grid.map(|blocks| blocks as u32);
    Launch { kernel, grid: [x, y, 1], block: [threads as u32, 1, 1], shared_bytes: 0 }
}

fn norm(names: [&'static str; 3], precision: Precision, tokens: usize, dim: usize) -> Launch {
    let blocks = if dim <= NORM_WARP_DIM { tokens.div_ceil(NORM_WARPS) } else { tokens };
    flat(names[precision as usize], [blocks, 1], NORM_THREADS)
}

/// `out[tokens, dim]` = layernorm(words + positions).
pub fn embed_norm(precision: Precision, tokens: usize, dim: usize) -> Launch {
    norm(["embed_norm_f32", "embed_norm_f16", "embed_norm_bf16"], precision, tokens, dim)
}

/// `x[tokens, dim]` = layernorm(x).
pub fn layer_norm(precision: Precision, tokens: usize, dim: usize) -> Launch {
    norm(["layer_norm_f32", "layer_norm_f16", "layer_norm_bf16"], precision, tokens, dim)
}

/// `x[rows, n]` = gelu(x + bias).
pub fn bias_gelu(precision: Precision, rows: usize, n: usize) -> Launch {
    let names = ["bias_gelu_f32", "bias_gelu_f16", "bias_gelu_bf16"];
    let columns = n.div_ceil(GELU_THREADS * chunk(precision));
    flat(names[precision as usize], [rows.div_ceil(GELU_ROWS), columns], GELU_THREADS)
}

/// `out[rows, dim]`, one vector per sequence.
pub fn pool(precision: Precision, rows: usize, dim: usize) -> Launch {
    let names = ["pool_f32", "pool_f16", "pool_bf16"];
    let columns = dim.div_ceil(POOL_COLUMN_CHUNKS * chunk(precision));
    flat(names[precision as usize], [rows, columns], POOL_THREADS)
}

/// Queries that one block takes, for a batch: as many as use every key twice where most queries are of long sequences, and half of
/// that where they are of short ones, whose blocks would be mostly idle.
pub fn tile_queries(offsets: &[u32]) -> usize {
    let lengths = offsets.windows(2).map(|bounds| u64::from(bounds[1] - bounds[0]));
    let (queries, weighted) = lengths.fold((0, 0), |(sum, squares), length| (sum + length, squares + length * length));
    if weighted > LONG_TILE as u64 * queries { LONG_TILE } else { SHORT_TILE }
}

/// Fills `out` with pairs of a row and the first query of a tile in it, for all tiles of [`tile_queries`] queries. Tiles of the longest
/// sequences come first, so that what is left to even out at the end is short.
pub fn attention_tiles(offsets: &[u32], out: &mut Vec<u32>) {
    out.clear();
    let step = tile_queries(offsets);
    let length = |row: usize| offsets[row + 1] - offsets[row];
    let mut rows: Vec<usize> = (0..offsets.len().saturating_sub(1)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(length(*row)));
    for row in rows {
        for first in (0..length(row)).step_by(step) {
            out.extend([row as u32, first]);
        }
    }
}

/// Padded head dimensions, and the kernel of each for `f16` and `bf16` at 64 and at 128 queries.
const TENSOR_CORES: [(usize, [[&str; 2]; 2]); 5] = [
    (16, [["attention_d16_q64_f16", "attention_d16_q128_f16"], ["attention_d16_q64_bf16", "attention_d16_q128_bf16"]]),
    (32, [["attention_d32_q64_f16", "attention_d32_q128_f16"], ["attention_d32_q64_bf16", "attention_d32_q128_bf16"]]),
    (64, [["attention_d64_q64_f16", "attention_d64_q128_f16"], ["attention_d64_q64_bf16", "attention_d64_q128_bf16"]]),
    (96, [["attention_d96_q64_f16", "attention_d96_q128_f16"], ["attention_d96_q64_bf16", "attention_d96_q128_bf16"]]),
    (
        128,
        [
            ["attention_d128_q64_f16", "attention_d128_q128_f16"],
            ["attention_d128_q64_bf16", "attention_d128_q128_bf16"],
        ],
    ),
];

/// Largest head dimension of each plain kernel, and its names by precision.
const PLAIN: [(usize, [&str; 3]); 4] = [
    (32, ["attention_plain_d32_f32", "attention_plain_d32_f16", "attention_plain_d32_bf16"]),
    (64, ["attention_plain_d64_f32", "attention_plain_d64_f16", "attention_plain_d64_bf16"]),
    (128, ["attention_plain_d128_f32", "attention_plain_d128_f16", "attention_plain_d128_bf16"]),
    (MOST_HEAD_DIM, ["attention_plain_d256_f32", "attention_plain_d256_f16", "attention_plain_d256_bf16"]),
];

/// softmax(Q Kᵀ / √head_dim) V, for `tiles` tiles of `queries` queries. `None` for heads wider than [`MOST_HEAD_DIM`].
///
/// On tensor cores in half precision where heads are whole chunks of 16 bytes and at most 128 wide; otherwise plain.
pub fn attention(precision: Precision, tiles: usize, queries: usize, heads: usize, head_dim: usize) -> Option<Launch> {
    let half = match precision {
        Precision::F32 => None,
        Precision::F16 => Some(0),
        Precision::Bf16 => Some(1),
    };
    let fitting = TENSOR_CORES.iter().find(|(dim, _)| head_dim <= *dim && head_dim.is_multiple_of(8));
    let block = [ATTENTION_THREADS as u32, 1, 1];
    if let (Some(half), Some((dim, names))) = (half, fitting) {
        let shared = (queries + 2 * 2 * ATTENTION_KEYS) * dim * precision.size_bytes();
        let kernel = names[half][usize::from(queries == LONG_TILE)];
        return Some(Launch { kernel, grid: [tiles as u32, heads as u32, 1], block, shared_bytes: shared as u32 });
    }
    let (_, names) = PLAIN.iter().find(|(dim, _)| head_dim <= *dim)?;
    let width = head_dim.next_multiple_of(4);
    let floats = PLAIN_QUERIES * width + PLAIN_KEYS * (width + 1) + PLAIN_QUERIES * PLAIN_KEYS;
    let grid = [tiles as u32, heads as u32, (queries / PLAIN_QUERIES) as u32];
    Some(Launch { kernel: names[precision as usize], grid, block, shared_bytes: (floats * 4) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOURCES: [&str; 5] = [
        include_str!("attention.cuh"),
        include_str!("attention_plain.cuh"),
        include_str!("gelu.cuh"),
        include_str!("norm.cuh"),
        include_str!("pool.cuh"),
    ];

    /// The value of a constant in the kernels' sources.
    fn constant(name: &str) -> usize {
        let line = SOURCES.iter().flat_map(|source| source.lines()).find(|line| line.contains(&format!(" {name} = ")));
        let value = line.and_then(|line| line.split(" = ").nth(1)).expect("the constant is there");
        value.trim_end_matches(';').parse().expect("a plain number")
    }

    #[test]
    fn the_kernels_have_the_same_constants() {
        for (name, here) in [
            ("NORM_THREADS", NORM_THREADS),
            ("GELU_THREADS", GELU_THREADS),
            ("GELU_ROWS", GELU_ROWS),
            ("POOL_THREADS", POOL_THREADS),
            ("POOL_COLUMN_CHUNKS", POOL_COLUMN_CHUNKS),
            ("ATTENTION_KEYS", ATTENTION_KEYS),
            ("NORM_LANE_NUMBERS", NORM_WARP_DIM / 32),
            ("ATTENTION_WARPS", ATTENTION_THREADS / 32),
            ("PLAIN_WARPS", ATTENTION_THREADS / 32),
            ("PLAIN_WARP_QUERIES", PLAIN_QUERIES / 4),
        ] {
            assert_eq!(constant(name), here, "{name}");
        }
    }

    #[test]
    fn every_head_gets_the_kernel_that_can_take_it() {
        let name = |precision, queries, head_dim| attention(precision, 7, queries, 12, head_dim).map(|it| it.kernel);
        assert_eq!(name(Precision::Bf16, 128, 64), Some("attention_d64_q128_bf16"));
        assert_eq!(name(Precision::F16, 64, 40), Some("attention_d64_q64_f16"));
        assert_eq!(name(Precision::F16, 64, 33), Some("attention_plain_d64_f16"));
        assert_eq!(name(Precision::F32, 64, 32), Some("attention_plain_d32_f32"));
        assert_eq!(name(Precision::Bf16, 64, 136), Some("attention_plain_d256_bf16"));
        assert_eq!(name(Precision::F32, 64, 257), None);
        let plain = attention(Precision::F32, 7, 128, 12, 64).unwrap();
        assert_eq!(plain.grid, [7, 12, 4], "four blocks of 32 queries in a tile of 128");
        assert!(plain.shared_bytes < 227 * 1024);
    }

    proptest! {
        #[test]
        fn tiles_cover_every_query_once(lengths in prop::collection::vec(0u32..700, 0..40)) {
            let mut offsets = vec![0];
            offsets.extend(lengths.iter().scan(0, |end, len| { *end += len; Some(*end) }));
            let mut tiles = vec![9; 3];
            attention_tiles(&offsets, &mut tiles);
            let step = tile_queries(&offsets) as u32;
            let mut covered = vec![0; lengths.len()];
            for tile in tiles.chunks(2) {
                let (row, first) = (tile[0] as usize, tile[1]);
                prop_assert!(first % step == 0 && first < lengths[row]);
                covered[row] += step.min(lengths[row] - first);
            }
            prop_assert_eq!(covered, lengths);
        }
    }
}
