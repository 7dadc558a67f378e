//! Where keys come from, and how a change of the file arrives: looked at every two seconds, taken only if it is right.
//!
//! The file is read again whenever its content has changed, not its time stamp: a volume that is mounted by an
//! orchestrator swaps a link and may keep the time. It is small.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use forebay_shared::settings::Secret;

use super::Tenants;
use super::config::{self, Config};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What configures tenants.
#[derive(Debug, Clone)]
pub enum Source {
    File(PathBuf),
    /// The text itself, from the environment: as it is until the process ends.
    Inline(Secret),
}

impl Source {
    /// Of the two settings, at most one may be given.
    ///
    /// # Errors
    /// Both are.
    pub fn choose(file: Option<&Path>, inline: Option<&Secret>) -> anyhow::Result<Option<Self>> {
        match (file, inline) {
            (Some(_), Some(_)) => anyhow::bail!(
                "--api-keys (FOREBAY_API_KEYS_FILE) and --api-keys-json (FOREBAY_API_KEYS) are both given; keep one"
            ),
            (Some(file), None) => Ok(Some(Self::File(file.to_owned()))),
            (None, Some(text)) => Ok(Some(Self::Inline(text.clone()))),
            (None, None) => Ok(None),
        }
    }

    /// Reads it for the first time, and the text it was read from.
    ///
    /// # Errors
    /// It cannot be read, or not be used: an api does not start with keys that it does not understand.
    pub fn read(&self) -> anyhow::Result<(Config, String)> {
        match self {
            Self::File(path) => {
                let name = path.display();
                let text = std::fs::read_to_string(path).with_context(|| format!("--api-keys: cannot read {name}"))?;
                let config = config::parse(&text).with_context(|| format!("--api-keys: {name}"))?;
                Ok((config, text))
            }
            Self::Inline(text) => {
                let text = text.reveal().to_owned();
                Ok((config::parse(&text).context("--api-keys-json (FOREBAY_API_KEYS)")?, text))
            }
        }
    }

    /// Follows the file for as long as the process lives; `text` is what was read last.
    pub async fn follow(self, mut text: String, tenants: Arc<Tenants>) {
        let Self::File(path) = self else { return };
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut broken: Option<String> = None;
        loop {
            look.tick().await;
            let problem = match tokio::fs::read_to_string(&path).await {
                Ok(read) if read == text => None,
                Ok(read) => match config::parse(&read) {
                    Ok(config) => {
                        tracing::info!(file = %path.display(), tenants = config.tenants.len(), "took over changed API keys");
                        tenants.replace(config);
                        text = read;
                        None
                    }
                    Err(error) => Some(error.to_string()),
                },
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem.as_ref().filter(|problem| broken.as_ref() != Some(problem)) {
                tracing::error!(file = %path.display(), problem, "the API keys cannot be used; the last good ones stay");
            }
            tenants.set_stale(problem.is_some());
            broken = problem;
        }
    }
}
