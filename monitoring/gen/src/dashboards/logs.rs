//! Lines of all processes, by trace: from an answer's trace id to everything that was said about that request.
//!
//! Needs Loki, and lines that have the labels `service` (api, worker, …) and `level`, as Alloy gives them in compose.

use super::model::{Dashboard, Panel, Row, Unit, Variable};

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "forebay-logs",
        title: "forebay / Logs",
        description: "What the processes said, by service, level, text and trace id.",
        tags: &["logs"],
        variables: &[Variable::Logs],
        rows: vec![rates(), lines()],
        from: "now-1h",
    }
}

/// The chosen lines. An empty trace id or text keeps all of them.
fn chosen() -> &'static str {
    r#"{service=~"$service"} |= `$trace_id` |~ `$text` | level=~"(?i)($level)""#
}

fn rates() -> Row {
    Row::new(
        "How much is said",
        vec![
            Panel::log_rate("Lines by level", "Lines per second.")
                .query("{{level}}", format!("sum by (level) (rate({} [$__auto]))", chosen()))
                .size(12, 6),
            Panel::log_rate("Warnings and errors by service", "Lines per second.")
                .query(
                    "{{service}} {{level}}",
                    r#"sum by (service, level) (rate({service=~"$service"} | level=~"(?i)(warn|error)" [$__auto]))"#,
                )
                .size(12, 6),
        ],
    )
}

fn lines() -> Row {
    Row::new(
        "Lines",
        vec![
            Panel::logs(
                "Lines",
                "Choose a trace id to see one request on its way through api and worker. Inputs are never logged.",
            )
            .query("", chosen())
            .size(24, 18),
        ],
    )
}

impl Panel {
    /// Numbers that Loki counts from lines.
    fn log_rate(title: &'static str, description: &str) -> Self {
        Self { from_logs: true, ..Self::stacked(title, description, Unit::PerSecond) }
    }
}
