//! A `multipart/form-data` body with one file in it, read piece by piece.
//!
//! ```text
//! socket ──▶ Pieces (cuts, counts) ──▶ multipart parser (buffers until it finds what it looks for) ──▶ Part
//! ```
//! The parser knows no limits: it keeps everything before the first boundary, and every field's headers, until they are
//! complete. So the bytes are counted before it, and those of the file after it. What came and is no file is bounded by
//! [`ROOM_BYTES`], the file by the size it may have, and so is their sum, whether the client announced it or not.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use bytes::Bytes;
use forebay_shared::error::JobError;
use futures::Stream;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::Failure;
use crate::http::pace::Pace;

/// What a form has beside its file: boundaries, the headers of fields, the other fields.
const ROOM_BYTES: u64 = 64 * 1024;
/// What the parser gets at once, and so the most of a file that it holds.
const PIECE_BYTES: usize = 16 * 1024;
/// A client that sends nothing for this long has stopped; one that sends too slowly uses it up little by little.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest value of a field that is no file.
const MAX_FIELD_BYTES: usize = 1_024;

/// A form whose fields come one after the other.
pub(super) struct Form {
    multipart: Multipart,
    watch: Watch,
}

/// One field.
pub(super) struct Part<'a> {
    field: Field<'a>,
    watch: &'a mut Watch,
}

impl Form {
    /// # Errors
    /// [`JobError::PayloadTooLarge`] if the body is announced as larger than a form with a file of `max_file_bytes`,
    /// [`Failure::UnsupportedMedia`] if it is no form.
    pub(super) async fn open(parts: Parts, body: Body, max_file_bytes: u64) -> Result<Self, Failure> {
        if announced(&parts.headers).is_some_and(|bytes| bytes > max_file_bytes + ROOM_BYTES) {
            return Err(too_large(max_file_bytes));
        }
        let meter = Arc::new(Mutex::new(Meter { max_file_bytes, came: 0, file: 0 }));
        let body = body.into_data_stream();
        let pieces = Pieces { body, rest: Bytes::new(), has_given: false, meter: Arc::clone(&meter) };
        let mut request = Request::from_parts(parts, Body::from_stream(pieces));
        // `Meter` limits it, more closely.
        DefaultBodyLimit::disable().apply(&mut request);
        let multipart = Multipart::from_request(request, &()).await.map_err(|_| {
            let wanted = "the body must be multipart/form-data with the fields `purpose` and `file`";
            Failure::UnsupportedMedia(wanted.to_owned())
        })?;
        Ok(Self { multipart, watch: Watch { meter, pace: Pace::new(PATIENCE) } })
    }

    /// The next field, once the one before has been read to its end.
    ///
    /// # Errors
    /// The body is no form, has more than it may beside the file, or does not come.
    pub(super) async fn next(&mut self) -> Result<Option<Part<'_>>, Failure> {
        let Self { multipart, watch } = self;
        let field = watch.over(multipart.next_field()).await?;
        Ok(field.map(|field| Part { field, watch }))
    }
}

impl Part<'_> {
    pub(super) fn name(&self) -> &str {
        self.field.name().unwrap_or_default()
    }

    pub(super) fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// The next piece of the file that this field is.
    ///
    /// # Errors
    /// As [`Form::next`]; [`JobError::PayloadTooLarge`] once the file is larger than it may be.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = self.watch.over(self.field.chunk()).await?;
        if let Some(piece) = &piece {
            self.watch.meter.lock().was_file(piece.len())?;
        }
        Ok(piece)
    }

    /// The short text that this field is, called `name` in errors.
    ///
    /// # Errors
    /// As [`Form::next`]; it is too long, or no text.
    pub(super) async fn text(&mut self, name: &'static str) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.watch.over(self.field.chunk()).await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > MAX_FIELD_BYTES {
                return Err(Failure::invalid(name, "a field beside the file is too long"));
            }
        }
        String::from_utf8(bytes).map_err(|_| Failure::invalid(name, "a field is not UTF-8"))
    }
}

/// Watches over what the client sends, and how fast.
struct Watch {
    meter: Arc<Mutex<Meter>>,
    pace: Pace,
}

impl Watch {
    async fn over<T>(&mut self, read: impl Future<Output = Result<T, MultipartError>>) -> Result<T, Failure> {
        let (begun, before) = (Instant::now(), self.meter.lock().came);
        let read = tokio::time::timeout(self.pace.left(), read).await;
        self.pace.waited(begun.elapsed());
        let meter = self.meter.lock();
        self.pace.moved(meter.came - before);
        match read {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(_)) => {
                meter.is_within()?;
                Err(Failure::invalid("file", "the body is not complete multipart/form-data"))
            }
            Err(_) => Err(Failure::BodyTimeout),
        }
    }
}

/// How many bytes came, and how many of them turned out to be the file's.
#[derive(Debug)]
struct Meter {
    max_file_bytes: u64,
    came: u64,
    file: u64,
}

impl Meter {
    /// What the parser was given last may all be the file's: it is not counted before the parser has said so.
    fn is_within(&self) -> Result<(), Failure> {
        if self.came - self.file > ROOM_BYTES + PIECE_BYTES as u64 {
            let message = format!("a form may have {ROOM_BYTES} bytes beside its file, this one has more");
            return Err(Failure::invalid("file", message));
        }
        Ok(())
    }

    fn was_file(&mut self, bytes: usize) -> Result<(), Failure> {
        self.file += bytes as u64;
        if self.file > self.max_file_bytes {
            return Err(too_large(self.max_file_bytes));
        }
        Ok(())
    }
}

/// A body in pieces of at most [`PIECE_BYTES`].
struct Pieces {
    body: BodyDataStream,
    rest: Bytes,
    has_given: bool,
    meter: Arc<Mutex<Meter>>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // The parser takes as long as there is something and looks at it only then.
        if mem::take(&mut this.has_given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_next(cx)) {
                Some(Ok(bytes)) => this.rest = bytes,
                end => return Poll::Ready(end),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        let mut meter = this.meter.lock();
        meter.came += piece.len() as u64;
        meter.is_within().map_err(axum::Error::new)?;
        this.has_given = true;
        Poll::Ready(Some(Ok(piece)))
    }
}

pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(max_bytes: u64) -> Failure {
    JobError::PayloadTooLarge { max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX) }.into()
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
