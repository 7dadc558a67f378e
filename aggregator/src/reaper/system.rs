//! What the broker tells its system account, and what it does for it.

use std::time::Duration;

use async_nats::Client;
use forebay_shared::broker::{PULL, parse_connection_name};
use forebay_shared::ids::BootId;
use forebay_shared::subjects;
use futures::StreamExt;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::json;

use super::policy::Connection;

/// Brokers of a cluster answer within this, or are not there.
const ANSWER_LIMIT: Duration = Duration::from_millis(400);
/// Connections on one page of a broker's answer: it must fit into one message.
const PAGE: usize = 512;

/// A worker's pull connection has come or gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) boot: BootId,
    pub(super) connection: Connection,
    /// The broker ends, and takes everybody's connection with it.
    pub(super) is_shutdown: bool,
}

#[derive(Deserialize)]
struct Event {
    server: Server,
    client: ClientInfo,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Server {
    id: String,
}

#[derive(Deserialize)]
struct ClientInfo {
    id: u64,
    #[serde(default)]
    name: String,
}

/// Reads a CONNECT or DISCONNECT event; `None` if it is not about a worker's pull connection.
pub(super) fn parse_notice(payload: &[u8]) -> Option<Notice> {
    let event: Event = serde_json::from_slice(payload).ok()?;
    let (purpose, boot) = parse_connection_name(&event.client.name)?;
    let connection = Connection { server: event.server.id, cid: event.client.id };
    let is_shutdown = event.reason.contains("Shutdown");
    (purpose == PULL).then_some(Notice { boot, connection, is_shutdown })
}

#[derive(Deserialize)]
struct Answer<T> {
    server: Server,
    data: Option<T>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Connections {
    connections: Option<Vec<Listed>>,
    total: usize,
}

#[derive(Deserialize)]
struct Listed {
    cid: u64,
    #[serde(default)]
    name: String,
}

impl Listed {
    fn is_pull_of(&self, boot: BootId) -> bool {
        parse_connection_name(&self.name) == Some((PULL, boot))
    }
}

/// Drops a worker's pull connection. True when it is known to be gone.
pub(super) async fn kick(client: &Client, boot: BootId, connection: Option<Connection>) -> bool {
    let connection = match connection {
        Some(known) => known,
        None => match find(client, boot).await {
            Search::Found(connection) => connection,
            Search::Nowhere => return true,
            Search::Unknown => return false,
        },
    };
    let payload = json!({ "cid": connection.cid }).to_string();
    let request = client.request(subjects::sys_kick(&connection.server), payload.into());
    match tokio::time::timeout(ANSWER_LIMIT, request).await {
        // An error is that there is no such client any more.
        Ok(Ok(message)) => serde_json::from_slice::<Answer<serde_json::Value>>(&message.payload).is_ok(),
        Ok(Err(_)) | Err(_) => false,
    }
}

enum Search {
    Found(Connection),
    Nowhere,
    /// Nobody answered, or not all of it could be read.
    Unknown,
}

/// Looks through the clients of all brokers, for a reaper that has come later than the worker.
async fn find(client: &Client, boot: BootId) -> Search {
    let mut offset = 0;
    loop {
        let Some(answers) = page(client, offset, Some(boot)).await else { return Search::Unknown };
        let mut more = false;
        for Answer { server, data, .. } in answers {
            let Some(Connections { connections, total }) = data else { continue };
            if let Some(found) = connections.iter().flatten().find(|listed| listed.is_pull_of(boot)) {
                return Search::Found(Connection { server: server.id, cid: found.cid });
            }
            more |= total > offset + PAGE;
        }
        if !more {
            return Search::Nowhere;
        }
        offset += PAGE;
    }
}

/// The pull connections of all workers, as far as brokers say. A worker with two is left out: nobody knows which of them
/// is half open.
pub(super) async fn list(client: &Client) -> Vec<(BootId, Connection)> {
    let mut found: FxHashMap<BootId, Option<Connection>> = FxHashMap::default();
    let (mut offset, mut more) = (0, true);
    while more {
        more = false;
        for Answer { server, data, .. } in page(client, offset, None).await.unwrap_or_default() {
            let Some(Connections { connections, total }) = data else { continue };
            more |= total > offset + PAGE;
            for Listed { cid, name } in connections.unwrap_or_default() {
                if let Some((PULL, boot)) = parse_connection_name(&name) {
                    let connection = Connection { server: server.id.clone(), cid };
                    found.entry(boot).and_modify(|known| *known = None).or_insert(Some(connection));
                }
            }
        }
        offset += PAGE;
    }
    found.into_iter().filter_map(|(boot, connection)| Some((boot, connection?))).collect()
}

/// One page of each broker, up to the one that has `boot`. How many brokers there are nobody says: a slow one may be the
/// very one, so all the time is waited that brokers have to answer.
async fn page(client: &Client, offset: usize, boot: Option<BootId>) -> Option<Vec<Answer<Connections>>> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.ok()?;
    let payload = json!({ "limit": PAGE, "offset": offset }).to_string();
    client.publish_with_reply(subjects::SYS_CONNECTIONS, inbox, payload.into()).await.ok()?;
    let mut answers = Vec::new();
    let until = tokio::time::Instant::now() + ANSWER_LIMIT;
    while let Ok(Some(message)) = tokio::time::timeout_at(until, replies.next()).await {
        let Ok(answer) = serde_json::from_slice::<Answer<Connections>>(&message.payload) else { continue };
        let mut listed = answer.data.iter().flat_map(|data| data.connections.iter().flatten());
        let is_there = listed.any(|listed| boot.is_some_and(|boot| listed.is_pull_of(boot)));
        answers.push(answer);
        if is_there {
            break;
        }
    }
    (!answers.is_empty() && answers.iter().all(|answer| answer.error.is_none())).then_some(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_about_a_pull_connection_is_read() {
        let boot = BootId::from_bytes([7; 16]);
        let event = |purpose: &str, reason: &str| {
            let name = format!("forebay.worker-1.{purpose}.{boot}");
            let client = json!({ "acc": "FOREBAY", "id": 12, "name": name });
            json!({ "server": { "id": "NABC", "name": "n" }, "client": client, "reason": reason }).to_string()
        };
        let connection = Connection { server: "NABC".to_owned(), cid: 12 };
        let notice = Notice { boot, connection, is_shutdown: false };
        assert_eq!(parse_notice(event("pull", "Client Closed").as_bytes()), Some(notice));
        assert!(parse_notice(event("pull", "Server Shutdown").as_bytes()).unwrap().is_shutdown);
        assert_eq!(parse_notice(event("replies", "").as_bytes()), None);
        assert_eq!(parse_notice(b"{}"), None);
    }
}
