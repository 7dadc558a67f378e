//! What one worker can do, from counters of batches: pure.
//!
//! A worker's **capacity** is what it does when it has all it can do, not what an idle one happens to do. Batches make the
//! difference: an idle worker computes lone rows, a busy one full batches. With rows `r`, seconds of computing `s` and mean
//! fill `f` of the last batches:
//! - `r / s` is the least that a busy worker does: by the row, fuller batches are never slower.
//! - `r / s / f` is the most: a full batch takes at least as long as one that is not.
//! - In between lies what follows from the cost of a batch, `a + b × rows`, where batches of different sizes were seen.
//!
//! Without different sizes, what was believed before stays while it lies between the two and is moved to the nearer one
//! otherwise; the first belief is the upper one. So lone requests do not make a worker look slow, and what was learnt under
//! load is kept when the load is gone.
//!
//! While more jobs wait than fit into everybody's next batch, workers show two things more: how full their batches become
//! (`fullest`, used in place of 1), and for which share of the time they compute (`busiest`), by which all of this is
//! multiplied. A share below a half is not believed: something else holds the work up then.

/// Less computing than this says nothing about speed.
pub const LEAST_BUSY_SECONDS: f64 = 0.5;
pub const LEAST_BATCHES: f64 = 3.0;
/// Workers that compute for a smaller share of the time are not what holds the work up.
const LEAST_BUSY_SHARE: f64 = 0.5;
const LEAST_FILL: f64 = 0.01;
/// Batches are of different sizes if these vary by this share of their mean.
const LEAST_VARIATION: f64 = 0.2;
/// What a second of batches still counts one second later: half of it after four minutes.
const FADING: f64 = 0.997;

/// Batches of some time, of all workers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batches {
    pub count: f64,
    pub rows: f64,
    pub seconds: f64,
    /// Mean over batches of how full they were, 0 to 1.
    pub fill: f64,
}

impl Batches {
    fn bounded_fill(&self) -> f64 {
        self.fill.clamp(LEAST_FILL, 1.0)
    }

    /// Rows of a batch that is full.
    pub fn full_rows(&self) -> f64 {
        self.rows / self.count / self.bounded_fill()
    }
}

/// What is believed of one model's workers.
#[derive(Debug, Default)]
pub struct Capacity {
    costs: Costs,
    /// Rows per second of computing, in the fullest batches.
    computing: Option<f64>,
    fullest: Option<f64>,
    busiest: Option<f64>,
}

impl Capacity {
    /// Jobs per second of one worker; `None` before anything was learnt.
    pub fn per_second(&self) -> Option<f64> {
        Some(self.computing? * self.busiest.unwrap_or(1.0))
    }

    /// Takes the batches that ended since the last time.
    pub fn ended(&mut self, batches: &Batches) {
        if batches.count > 0.0 {
            self.costs.add(batches.count, batches.rows / batches.count, batches.seconds / batches.count);
        }
    }

    /// Believes what `recent` batches say, if they are enough to say anything.
    pub fn learn(&mut self, recent: &Batches) {
        if recent.seconds < LEAST_BUSY_SECONDS || recent.count < LEAST_BATCHES || recent.rows <= 0.0 {
            return;
        }
        let of_fullest = (recent.bounded_fill() / self.fullest.unwrap_or(1.0)).min(1.0);
        let least = recent.rows / recent.seconds;
        let most = least / of_fullest;
        let fullest_rows = recent.rows / recent.count / of_fullest;
        let belief = self.costs.rows_per_second(fullest_rows).or(self.computing).unwrap_or(most);
        self.computing = Some(belief.clamp(least, most));
    }

    /// The workers had all they could do while `batches` ended: `worker_seconds` is that time, times their number.
    pub fn at_its_limit(&mut self, batches: &Batches, worker_seconds: f64) {
        let share = (batches.seconds / worker_seconds).min(1.0);
        if batches.count >= LEAST_BATCHES && share >= LEAST_BUSY_SHARE {
            self.busiest = Some(share);
            self.fullest = Some(batches.bounded_fill());
        }
    }
}

/// A line through rows and seconds of batches, by weighted least squares that forget.
#[derive(Debug, Default)]
struct Costs {
    weight: f64,
    rows: f64,
    seconds: f64,
    rows_rows: f64,
    rows_seconds: f64,
}

impl Costs {
    fn add(&mut self, count: f64, rows: f64, seconds: f64) {
        for (sum, term) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.seconds, seconds),
            (&mut self.rows_rows, rows * rows),
            (&mut self.rows_seconds, rows * seconds),
        ] {
            *sum = *sum * FADING + count * term;
        }
    }

    /// Rows per second in batches of so many rows; `None` while all batches look the same.
    fn rows_per_second(&self, of_rows: f64) -> Option<f64> {
        let (rows, seconds) = (self.rows / self.weight, self.seconds / self.weight);
        let variance = self.rows_rows / self.weight - rows * rows;
        if self.weight < LEAST_BATCHES || variance < (LEAST_VARIATION * rows).powi(2) {
            return None;
        }
        let per_row = ((self.rows_seconds / self.weight - rows * seconds) / variance).clamp(0.0, seconds / rows);
        let fixed = seconds - per_row * rows;
        Some(of_rows / (fixed + per_row * of_rows)).filter(|rate| rate.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of so many rows of 64 that take 20 ms and 2 ms by the row, for a second of one worker.
    fn batches(rows: f64, seconds: f64) -> Batches {
        let count = seconds / (0.02 + 0.002 * rows);
        Batches { count, rows: count * rows, seconds, fill: rows / 64.0 }
    }

    fn learn(capacity: &mut Capacity, batches: &Batches) -> f64 {
        capacity.ended(batches);
        capacity.learn(batches);
        capacity.per_second().unwrap()
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6 * b
    }

    const FULL: f64 = 64.0 / 0.148;

    #[test]
    fn lone_rows_do_not_make_a_worker_look_slow() {
        let alike = learn(&mut Capacity::default(), &batches(1.0, 0.9));
        assert!(near(alike, 64.0 / 0.022), "64 rows may take no longer than one: {alike}");
    }

    #[test]
    fn full_batches_leave_nothing_open_and_are_remembered() {
        let mut capacity = Capacity::default();
        assert!(near(learn(&mut capacity, &batches(64.0, 1.0)), FULL));
        capacity.costs = Costs::default();
        assert!(near(learn(&mut capacity, &batches(1.0, 0.9)), FULL));
        let ten_times_as_long = Batches { seconds: 9.0, ..batches(1.0, 0.9) };
        capacity.costs = Costs::default();
        let slow = learn(&mut capacity, &ten_times_as_long);
        assert!(near(slow, 64.0 / 0.22), "inputs have become so long that more is not possible: {slow}");
    }

    #[test]
    fn batches_of_two_sizes_tell_what_a_full_one_does() {
        let mut capacity = Capacity::default();
        learn(&mut capacity, &batches(4.0, 1.0));
        assert!(near(learn(&mut capacity, &batches(8.0, 1.0)), FULL));
    }

    #[test]
    fn workers_that_have_all_they_can_do_show_how_full_and_how_busy_they_become() {
        let mut capacity = Capacity::default();
        let limit = batches(32.0, 0.8);
        capacity.at_its_limit(&limit, 1.0);
        assert!(near(learn(&mut capacity, &limit), limit.rows), "what it does in a second is its capacity");
        let held_up = Batches { seconds: 0.1, ..limit };
        capacity.at_its_limit(&held_up, 1.0);
        assert_eq!(capacity.busiest, Some(0.8), "a tenth of the time is not all they can do");
    }

    #[test]
    fn too_little_says_nothing() {
        let mut capacity = Capacity::default();
        for little in [batches(1.0, 0.4), Batches { count: 2.0, ..batches(64.0, 1.0) }] {
            capacity.learn(&little);
            assert_eq!(capacity.per_second(), None);
        }
    }
}
