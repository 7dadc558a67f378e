//! `/v1/models`.

use super::Operation;
use crate::dialect::Dialect::OpenAi;
use crate::routes::models::{List, Model};

const TAG: &str = "models";

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::get("/v1/models", OpenAi, TAG)
            .about("list_models", "List models", "What the fleet can serve at this moment.")
            .answer::<List<'_>>(200, "All models.")
            .errors(&[500])
            .keyed(),
        Operation::get("/v1/models/{id}", OpenAi, TAG)
            .about("show_model", "Show a model", "")
            .in_path("id", "The model's id; slashes may be written plainly or as %2F.")
            .answer::<Model<'_>>(200, "The model.")
            .errors(&[404, 500, 503])
            .keyed(),
    ]
}
