//! Reading a stream from its beginning to its end, once.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::Consumer;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::{Info, Stream};
use futures::StreamExt;

use super::DeadError;
use crate::broker::REQUEST_TIMEOUT;

/// How long the broker is asked to forget a reader, which it does by itself half a minute after the last question.
const GOODBYE: Duration = Duration::from_secs(1);

/// A reader on the broker. It outlives its connection, so it is taken away when its work ends, however that ends.
struct Reader {
    stream: Stream<Info>,
    /// The client makes another under another name when it has lost a message.
    name: String,
    is_gone: bool,
}

impl Reader {
    async fn remove(mut self) {
        self.is_gone = true;
        forget(&self.stream, &self.name).await;
    }
}

impl Drop for Reader {
    /// Who asked has left in the middle.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.is_gone {
            let (stream, name) = (self.stream.clone(), std::mem::take(&mut self.name));
            runtime.spawn(async move { forget(&stream, &name).await });
        }
    }
}

async fn forget(stream: &Stream<Info>, name: &str) {
    if let Ok(Err(error)) = tokio::time::timeout(GOODBYE, stream.delete_consumer(name)).await {
        tracing::debug!(%error, "a reader could not be removed; it goes half a minute later");
    }
}

/// Reads what is in a stream at this moment from its beginning to its end.
pub(super) async fn each_message(
    stream: &Stream<Info>,
    headers_only: bool,
    doing: &'static str,
    each: impl FnMut(&jetstream::Message),
) -> Result<(), DeadError> {
    let failed = |cause: String| DeadError::Broker { doing, cause };
    let state = stream.get_info().await.map_err(|error| failed(error.to_string()))?.state;
    if state.messages == 0 {
        return Ok(());
    }
    let config = OrderedConfig { headers_only, ..OrderedConfig::default() };
    #[expect(
        clippy::disallowed_methods,
        reason = "a reader of its own that defines nothing and is removed after its work"
    )]
    let consumer = stream.create_consumer(config).await.map_err(|error| failed(error.to_string()))?;
    let mut reader = Reader { stream: stream.clone(), name: consumer.cached_info().name.clone(), is_gone: false };
    let read = follow(consumer, stream, &mut reader.name, state.last_sequence, each).await;
    reader.remove().await;
    read.map_err(failed)
}

/// Until the message with the sequence `last`. Whatever it returns, the client asks for nothing more: it would make a
/// reader anew that it misses.
async fn follow(
    consumer: Consumer<OrderedConfig>,
    stream: &Stream<Info>,
    name: &mut String,
    last: u64,
    mut each: impl FnMut(&jetstream::Message),
) -> Result<(), String> {
    let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
    loop {
        let Ok(next) = tokio::time::timeout(REQUEST_TIMEOUT, messages.next()).await else {
            // What was still to come can have gone meanwhile: dropped, or expired.
            let info = stream.consumer_info(name.as_str()).await.map_err(|error| error.to_string())?;
            return if info.num_pending == 0 { Ok(()) } else { Err("it stopped sending them".to_owned()) };
        };
        let Some(message) = next else { return Ok(()) };
        let message = message.map_err(|error| error.to_string())?;
        let info = message.info().map_err(|error| error.to_string())?;
        if info.consumer != name.as_str() {
            info.consumer.clone_into(name);
        }
        let (sequence, left) = (info.stream_sequence, info.pending);
        each(&message);
        if sequence >= last || left == 0 {
            return Ok(());
        }
    }
}
