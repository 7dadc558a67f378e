//! How full a store is, and how a broker says that one is.
//!
//! A full store refuses what is new, whoever it is for. So who lets work in looks before, and leaves room for what has been
//! let in to end.

use std::error::Error;

use async_nats::jetstream;

/// The broker's code for a stream that is at its limit.
const STREAM_FULL: u64 = 10_077;
/// As it stands in the text of errors that do not keep their cause.
const STREAM_FULL_TEXT: &str = "error code 10077";

/// Bytes of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    pub used_bytes: u64,
    /// 0 = without bound.
    pub max_bytes: u64,
}

impl Level {
    /// Whether `bytes` more leave it at most so full.
    pub fn takes(self, bytes: u64, percent: u8) -> bool {
        let full = u128::from(self.used_bytes) + u128::from(bytes);
        self.max_bytes == 0 || full * 100 <= u128::from(self.max_bytes) * u128::from(percent)
    }
}

/// How full the stream of this name is.
///
/// # Errors
/// The broker does not answer.
pub async fn level(js: &jetstream::Context, stream: &str) -> Result<Level, async_nats::Error> {
    let info = js.get_stream_no_info(stream).await?.get_info().await?;
    Ok(Level { used_bytes: info.state.bytes, max_bytes: u64::try_from(info.config.max_bytes).unwrap_or_default() })
}

/// Whether a write failed because the store is at its bound.
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<jetstream::Error>().is_some_and(|error| error.error_code().0 == STREAM_FULL) {
            return true;
        }
        cause = error.source();
    }
    error.to_string().contains(STREAM_FULL_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_takes_what_leaves_it_at_most_as_full_as_allowed() {
        let level = Level { used_bytes: 70, max_bytes: 100 };
        assert!(level.takes(5, 75) && !level.takes(6, 75));
        assert!(level.takes(30, 100) && !level.takes(31, 100));
        assert!(!level.takes(u64::MAX, 100));
        assert!(Level { max_bytes: 0, ..level }.takes(u64::MAX, 1));
    }

    #[test]
    fn a_full_store_is_told_by_the_broker_s_code_wherever_it_stands() {
        let said = r#"{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}"#;
        let cause: jetstream::Error = serde_json::from_str(said).unwrap();
        assert!(is_full(&cause));
        assert!(is_full(&std::io::Error::other(format!("failed getting chunk ack: {cause}"))));
        let nested = std::io::Error::other(std::io::Error::other(cause));
        assert!(is_full(&nested));
        assert!(!is_full(&std::io::Error::other("maximum bytes exceeded")));
    }
}
