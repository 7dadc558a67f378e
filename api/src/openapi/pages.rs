//! What is about the process itself.

use super::Operation;
use crate::dialect::Dialect::Tei;
use crate::routes::root::Page;

const TAG: &str = "pages";

pub fn operations() -> Vec<Operation> {
    let get = |path| Operation::get(path, Tei, TAG);
    vec![
        get("/").about("root", "What this is, and where to go", "").answer::<Page>(200, "An overview.").keyed(),
        get("/metrics")
            .about("metrics", "Metrics of this process", "Prometheus' text format; the aggregator serves the fleet's.")
            .answer_as::<String>(200, "text/plain", "All series."),
        get("/openapi.json")
            .about("openapi", "This document", "OpenAPI 3.1.")
            .answer::<serde_json::Value>(200, "The document."),
        get("/docs")
            .about("docs", "This document as a page", "")
            .answer_as::<String>(200, "text/html", "The page.")
            .answer_header(200, "content-security-policy", "Nothing is loaded from elsewhere.")
            .answer_header(200, "cache-control", "`no-cache`"),
    ]
}
