//! Logs through `tracing`: text or JSON, to standard error, so that standard output stays for answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

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
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
    Ok(())
}
