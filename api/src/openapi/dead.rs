//! `/v1/dead`.

use utoipa::ToSchema;

use super::Operation;
use super::operation::number;
use crate::dialect::Dialect::OpenAi;

const TAG: &str = "dead";

/// A job that ended its workers and was put aside. Its input is kept and never shown.
#[derive(ToSchema)]
#[expect(dead_code, reason = "described here, written from the summary that travels with the letter")]
pub struct DeadLetter {
    /// The job's: the same in the error that its caller got, here, and under `/v1/jobs/{id}` once it is begun anew.
    id: String,
    /// 0, and one more with each replay.
    generation: u32,
    tenant: String,
    model: String,
    /// The exact weights.
    token: String,
    lane: String,
    task: String,
    /// `repeated_starts`: several workers started it, alone, and none lived to end it.
    reason: String,
    /// Who had started it and never ended it, oldest first.
    starts: Vec<DeadLetterStart>,
    /// Microseconds since the Unix epoch when it was accepted.
    enqueued_us: u64,
    /// Microseconds since the Unix epoch when it was put aside.
    died_us: u64,
    input_bytes: u64,
    /// First 16 hexadecimal digits of the SHA-256 of the input.
    input_digest: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "described here, written from the summary that travels with the letter")]
pub struct DeadLetterStart {
    /// Name of the worker.
    process: String,
    boot: String,
    /// Number of the delivery.
    attempt: u32,
    at_us: u64,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "described here, written by the route")]
pub struct DeadLetterList {
    object: String,
    data: Vec<DeadLetter>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "described here, written by the route")]
pub struct DeadLetterReplayed {
    id: String,
    /// The asynchronous job whose state tells how it goes on, under `/v1/jobs/{id}`: the same id.
    job: String,
    generation: u32,
    status: String,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "described here, written by the route")]
pub struct DeadLetterDeleted {
    id: String,
    deleted: bool,
}

pub fn operations() -> Vec<Operation> {
    const ID: &str = "The job's id.";
    vec![
        Operation::get("/v1/dead", OpenAi, TAG)
            .about("list_dead", "List dead letters", "The caller's own, newest first. Never holds an input.")
            .in_query_as("limit", "Most letters in the list; 100 unless said otherwise.", number(1, 1_000))
            .answer::<DeadLetterList>(200, "Dead letters.")
            .errors(&[400, 500, 503])
            .keyed(),
        Operation::get("/v1/dead/{id}", OpenAi, TAG)
            .about("show_dead", "Show a dead letter", "")
            .in_path("id", ID)
            .answer::<DeadLetter>(200, "The dead letter.")
            .errors(&[404, 500, 503])
            .keyed(),
        Operation::delete("/v1/dead/{id}", OpenAi, TAG)
            .about("delete_dead", "Erase a dead letter", "Its input is erased with it.")
            .in_path("id", ID)
            .answer::<DeadLetterDeleted>(200, "It is gone.")
            .errors(&[404, 500, 503])
            .keyed(),
        Operation::post("/v1/dead/{id}/replay", OpenAi, TAG)
            .about(
                "replay_dead",
                "Begin a dead job anew",
                "As asynchronous work of the next generation, to be done within an hour; the dead letter is removed.",
            )
            .in_path("id", ID)
            .answer::<DeadLetterReplayed>(202, "It is queued.")
            .errors(&[404, 409, 500, 503])
            .keyed(),
    ]
}
