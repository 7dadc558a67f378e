//! What the cache costs a request that it does not help, and what it takes from one that it does. Run by hand:
//! `cargo test --release -p forebay-api --lib cache::tests::cost -- --ignored --nocapture`

use std::time::Instant;

use super::*;

#[tokio::test]
#[ignore = "measures; see the module"]
async fn of_a_hit_and_a_miss() {
    const REQUESTS: usize = 20_000;
    println!("| rows | no cache, µs per request | miss | hit |\n|---|---|---|---|");
    for rows in [1, 32] {
        let mut cells = Vec::new();
        for (max_bytes, policy) in [(0, Policy::Use), (BIG << 6, Policy::Refresh), (BIG << 6, Policy::Use)] {
            let state = prompt(max_bytes);
            let inputs: Vec<String> = (0..rows).map(|row| format!("{row:0200}")).collect();
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            answer(&state, request(&inputs), policy).await.unwrap();
            let submissions: Vec<_> = (0..REQUESTS / rows).map(|_| request(&inputs)).collect();
            let begin = Instant::now();
            for submission in submissions {
                answer(&state, submission, policy).await.unwrap();
            }
            cells.push(begin.elapsed().as_secs_f64() * 1e6 / (REQUESTS / rows) as f64);
            state.backend.submitted.lock().clear();
        }
        println!("| {rows} | {:.2} | {:.2} | {:.2} |", cells[0], cells[1], cells[2]);
    }
}
