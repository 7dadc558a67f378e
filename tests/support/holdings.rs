//! What workers say that they hold, with the time at which it was heard.

use std::time::{Duration, Instant};

use async_nats::Subscriber;
use forebay_shared::ack::AckSubject;
use forebay_shared::job::Held;
use forebay_shared::{codec, subjects};
use futures::StreamExt;

use super::cluster::Cluster;

/// One delivery, as a worker announced it.
#[derive(Debug, Clone)]
pub struct Taken {
    pub at: Instant,
    pub worker: String,
    pub stream_seq: u64,
    pub delivered: u64,
    pub ack: String,
}

/// Hears everything from when it was made.
pub struct Holdings {
    messages: Subscriber,
}

impl Holdings {
    pub async fn listen(cluster: &Cluster) -> Self {
        let client = cluster.broker_client().await;
        let messages = client.subscribe(subjects::HELD_ALL).await.unwrap();
        client.flush().await.unwrap();
        Self { messages }
    }

    async fn next(&mut self) -> (Instant, Held) {
        let message = self.messages.next().await.expect("the broker is there");
        (Instant::now(), codec::decode(&message.payload).unwrap())
    }

    /// The next announcement of a delivery that satisfies `wanted`; panics if it takes longer than `limit`.
    pub async fn taken(&mut self, limit: Duration, wanted: impl Fn(&Taken) -> bool) -> Taken {
        let search = async {
            loop {
                let (at, held) = self.next().await;
                for ack in held.acks.iter().filter(|_| !held.full) {
                    let parsed = AckSubject::parse(ack).unwrap();
                    let (worker, ack) = (held.process.to_string(), ack.clone());
                    let (stream_seq, delivered) = (parsed.stream_seq, parsed.delivered);
                    let taken = Taken { at, worker, stream_seq, delivered, ack };
                    if wanted(&taken) {
                        return taken;
                    }
                }
            }
        };
        tokio::time::timeout(limit, search).await.unwrap_or_else(|_| panic!("nobody took it within {limit:?}"))
    }

    /// Waits until `worker` has said twice more all that it holds: by then every reaper knows it.
    pub async fn settled(&mut self, worker: &str) {
        let mut lists = 0;
        while lists < 2 {
            let (_, held) = self.next().await;
            lists += u32::from(held.full && held.process.as_str() == worker);
        }
    }
}
