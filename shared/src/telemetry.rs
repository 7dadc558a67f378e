//! Logs through `tracing`: text or JSON, to standard error, so that standard output stays for answers. Traces: [`otlp`] is
//! where they leave, [`span`] what they are made of.
//!
//! Inputs never go to a log, whatever `--log` says. Our own events carry none; those of the broker's client below `info`
//! are whole messages, so they are dropped here. The same holds for spans.

mod client;
pub mod otlp;
mod sampling;
mod settings;
pub mod span;

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use self::settings::TraceArgs;
use crate::settings::{LogArgs, LogFormat, SettingsError};

/// Starts logging for this process. Call once.
///
/// # Errors
/// [`SettingsError`] if `--log` is no filter.
pub fn init(args: &LogArgs) -> Result<(), SettingsError> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| SettingsError { flag: "--log", problem: format!("{error}; try info or debug") })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second start (tests in one process) keeps the first subscriber.
    let _already_set = match args.log_format {
        LogFormat::Text => builder.with_target(false).finish().with(filter_fn(holds_no_message)).try_init(),
        LogFormat::Json => {
            let json = builder.json().flatten_event(true).with_current_span(true);
            json.finish().with(filter_fn(holds_no_message)).try_init()
        }
    };
    Ok(())
}

/// What lies in messages is not for logs.
fn holds_no_message(event: &Metadata<'_>) -> bool {
    *event.level() <= Level::INFO || !event.target().starts_with("async_nats")
}
