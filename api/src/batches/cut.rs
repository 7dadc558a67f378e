//! Where a file is cut into parts. Pure: the same file is always cut in the same places.

/// Most lines in one part: what is run again when its process dies.
pub const MAX_PART_LINES: usize = 500;
/// Most bytes of lines in one part, well below the broker's `max_payload` of 1 MB.
pub const MAX_PART_BYTES: usize = 512 * 1024;
/// Most inputs in one part: bounds its answers, which are held in memory until they are stored.
pub const MAX_PART_ROWS: usize = 512;
/// Longest line: it must fit into one message with room for its envelope.
pub const MAX_LINE_BYTES: usize = 900_000;
/// Most lines in one batch.
pub const MAX_LINES: u64 = 200_000;

/// Told one line after the other, says where parts begin.
#[derive(Debug, Default)]
pub struct Cutter {
    lines: usize,
    bytes: usize,
    rows: usize,
}

impl Cutter {
    /// Takes the next line; true if it begins a part. A line that is larger than a part is one of its own.
    pub fn begins(&mut self, bytes: usize, rows: usize) -> bool {
        let fits = self.lines > 0
            && self.lines < MAX_PART_LINES
            && self.bytes + bytes <= MAX_PART_BYTES
            && self.rows + rows <= MAX_PART_ROWS;
        if !fits {
            *self = Self::default();
        }
        self.lines += 1;
        self.bytes += bytes;
        self.rows += rows;
        !fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_part_is_larger_than_its_bounds_unless_it_is_one_line(
            lines in prop::collection::vec((1usize..MAX_LINE_BYTES, 1usize..600), 1..50),
            small in 0usize..1_200,
        ) {
            let lines: Vec<_> = lines.into_iter().chain(std::iter::repeat_n((100, 1), small)).collect();
            let mut cutter = Cutter::default();
            let mut parts: Vec<Vec<(usize, usize)>> = Vec::new();
            for line in &lines {
                if cutter.begins(line.0, line.1) {
                    parts.push(Vec::new());
                }
                parts.last_mut().unwrap().push(*line);
            }
            prop_assert_eq!(parts.concat(), lines);
            for part in parts {
                let (bytes, rows) = part.iter().fold((0, 0), |sum, line| (sum.0 + line.0, sum.1 + line.1));
                prop_assert!(part.len() == 1 || (part.len() <= MAX_PART_LINES && bytes <= MAX_PART_BYTES && rows <= MAX_PART_ROWS));
            }
        }
    }
}
