//! `/health…`.

use super::Operation;
use crate::dialect::Dialect::Tei;
use crate::routes::health::Health;

const TAG: &str = "health";

pub fn operations() -> Vec<Operation> {
    let ready = |path, id, summary| {
        Operation::get(path, Tei, TAG)
            .about(id, summary, "With `model`, also whether a worker serves that model.")
            .in_query("model", "A model that must be served too.")
            .answer::<Health>(200, "It can take work.")
            .answer::<Health>(503, "It cannot; `reason` says why.")
    };
    vec![
        Operation::get("/health/live", Tei, TAG)
            .about("health_live", "Does the process answer?", "")
            .answer::<Health>(200, "It does."),
        ready("/health/ready", "health_ready", "Can it take work?"),
        ready("/health", "health", "The same as /health/ready"),
    ]
}
