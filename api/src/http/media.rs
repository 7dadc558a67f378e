//! Which bodies are read at all.
//!
//! A body without a type is taken for JSON: many clients send none. One that says it is something else is refused before
//! it is read. That includes the three types that a web page may send across origins without asking (`text/plain` and
//! the two of forms), so that no page in a browser can use an api that listens on loopback without keys.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};

use crate::error::Failure;

/// Longest part of a header that is repeated in an error.
const MAX_SHOWN_CHARS: usize = 80;

/// The body is JSON in UTF-8, by its `content-type`.
///
/// # Errors
/// [`Failure::UnsupportedMedia`].
pub fn json(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get(CONTENT_TYPE) {
        None => Ok(()),
        Some(value) if value.as_bytes() == b"application/json" => Ok(()),
        Some(value) if value.to_str().is_ok_and(is_json) => Ok(()),
        Some(value) => Err(Failure::UnsupportedMedia(format!(
            "content-type must be application/json in UTF-8, not '{}'",
            shown(value)
        ))),
    }
}

/// The body is sent as it is, by its `content-encoding`.
///
/// # Errors
/// [`Failure::UnsupportedMedia`].
pub fn plain(headers: &HeaderMap) -> Result<(), Failure> {
    match headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(value) if value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity") => Ok(()),
        Some(value) => Err(Failure::UnsupportedMedia(format!(
            "content-encoding '{}' is not read here; send the body uncompressed",
            shown(value)
        ))),
    }
}

fn is_json(value: &str) -> bool {
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let suffixed = essence.len() > 5 && essence[..essence.len() - 5].contains('/');
    let json = essence.eq_ignore_ascii_case("application/json")
        || (suffixed && essence.to_ascii_lowercase().ends_with("+json"));
    json && parts.all(|parameter| match parameter.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            let charset = charset.trim().trim_matches('"');
            ["utf-8", "utf8", "us-ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known))
        }
        _ => true,
    })
}

fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).chars().take(MAX_SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &[u8]) -> HeaderMap {
        [(name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap())].into_iter().collect()
    }

    #[test]
    fn json_is_what_says_so_or_says_nothing() {
        assert_eq!(json(&HeaderMap::new()), Ok(()));
        for good in ["application/json", "Application/JSON; charset=\"UTF-8\"", "application/ld+json;profile=x"] {
            assert_eq!(json(&headers("content-type", good.as_bytes())), Ok(()), "{good}");
        }
    }

    #[test]
    fn everything_else_is_refused_whatever_its_bytes() {
        for bad in [
            &b"text/plain"[..],
            b"application/x-www-form-urlencoded",
            b"multipart/form-data; boundary=x",
            b"application/json; charset=utf-16",
            b"application/jsonx",
            b"+json",
            b"",
            b"\xff\xfe",
        ] {
            let refused = json(&headers("content-type", bad));
            assert!(matches!(refused, Err(Failure::UnsupportedMedia(_))), "{bad:?}");
        }
    }

    #[test]
    fn compressed_bodies_are_refused() {
        assert_eq!(plain(&headers("content-encoding", b"identity")), Ok(()));
        for bad in ["gzip", "br", "zstd", "deflate, gzip", ""] {
            let Err(Failure::UnsupportedMedia(text)) = plain(&headers("content-encoding", bad.as_bytes())) else {
                panic!("{bad} was accepted");
            };
            assert!(text.contains("uncompressed"), "{text}");
        }
    }
}
