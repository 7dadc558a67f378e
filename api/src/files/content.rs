//! The bytes of a file, object by object.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_nats::jetstream::object_store::{Object, ObjectStore};
use bytes::BytesMut;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::time::Sleep;

use crate::batches::part::Segment;

/// How long the broker may take for the next bytes before reading fails: chunks that are gone never come.
const PATIENCE: Duration = Duration::from_secs(20);
const FRAME_BYTES: usize = 64 * 1024;

/// Reads one object after the other. Fails when one is missing or shorter than it was.
pub struct Content {
    store: ObjectStore,
    rest: VecDeque<Segment>,
    state: State,
    timer: Pin<Box<Sleep>>,
    /// Since when the timer runs is the beginning of this wait, not the end of the one before.
    is_waiting: bool,
}

enum State {
    Between,
    Opening(BoxFuture<'static, io::Result<Object>>, u64),
    /// The object, and how many of its bytes are still to come.
    Reading(Box<Object>, u64),
}

impl Content {
    pub(super) fn new(store: ObjectStore, segments: Vec<Segment>) -> Self {
        let timer = Box::pin(tokio::time::sleep(PATIENCE));
        Self { store, rest: segments.into(), state: State::Between, timer, is_waiting: false }
    }

    /// The same as frames of a body.
    pub fn frames(self) -> impl Stream<Item = io::Result<bytes::Bytes>> + Send {
        futures::stream::try_unfold(self, |mut content| async move {
            let mut frame = BytesMut::with_capacity(FRAME_BYTES);
            while frame.len() < FRAME_BYTES / 2 && content.read_buf(&mut frame).await? > 0 {}
            Ok((!frame.is_empty()).then(|| (frame.freeze(), content)))
        })
    }

    fn poll_once(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            self.state = match &mut self.state {
                State::Between => {
                    let Some(segment) = self.rest.pop_front() else { return Poll::Ready(Ok(())) };
                    let (store, name) = (self.store.clone(), segment.object);
                    let opening = async move { store.get(name).await.map_err(io::Error::other) };
                    State::Opening(opening.boxed(), segment.bytes)
                }
                State::Opening(opening, bytes) => {
                    let bytes = *bytes;
                    let object = ready!(opening.as_mut().poll(cx))?;
                    if object.info.size as u64 != bytes {
                        return Poll::Ready(Err(io::Error::other("an object has another size than it had")));
                    }
                    State::Reading(Box::new(object), bytes)
                }
                State::Reading(_, 0) => State::Between,
                State::Reading(object, left) => {
                    let before = buf.filled().len();
                    ready!(Pin::new(&mut **object).poll_read(cx, buf))?;
                    let read = (buf.filled().len() - before) as u64;
                    if read == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    *left = left.saturating_sub(read);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncRead for Content {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.poll_once(cx, buf);
        if read.is_ready() {
            self.is_waiting = false;
            return read;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            let until = tokio::time::Instant::now() + PATIENCE;
            self.timer.as_mut().reset(until);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}
