//! Calls when a job has ended: signed, repeated until they are taken, made again on request, never into our own network.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::support::{Cluster, ClusterOptions, client, eventually};
use super::{LONG, SECRET, embed, id, show, submit, two_apis};

/// Answers with the statuses that it is given, then with 200, and keeps what it was sent.
#[derive(Clone, Default)]
struct Receiver {
    statuses: Arc<Mutex<Vec<u16>>>,
    calls: Arc<Mutex<Vec<(HeaderMap, String)>>>,
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    receiver.calls.lock().unwrap().push((headers, body));
    let status = receiver.statuses.lock().unwrap().pop().unwrap_or(200);
    StatusCode::from_u16(status).unwrap()
}

impl Receiver {
    async fn listen(statuses: &[u16]) -> (Self, SocketAddr) {
        let receiver = Self { statuses: Arc::new(Mutex::new(statuses.to_vec())), ..Self::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/hook", axum::routing::post(receive)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (receiver, addr)
    }

    fn calls(&self) -> Vec<(HeaderMap, String)> {
        self.calls.lock().unwrap().clone()
    }
}

fn with_webhook(mut body: Value, addr: SocketAddr) -> Value {
    body["webhook"] = json!({ "url": format!("http://{addr}/hook"), "secret": SECRET });
    body
}

#[tokio::test]
async fn a_webhook_is_signed_and_called_until_it_is_taken() {
    let (receiver, addr) = Receiver::listen(&[500, 302]).await;
    let api_args = ["--webhook-allow-private", "--webhook-retry-min", "200ms", "--webhook-attempts", "5"];
    let cluster =
        Cluster::start(ClusterOptions { api_args: api_args.iter().map(ToString::to_string).collect(), ..two_apis() })
            .await;
    let api = cluster.api(0).addr();
    let job = submit(api, &with_webhook(embed(&cluster, &json!("x")), addr)).await;
    eventually("the call is delivered", LONG, || async {
        show(api, id(&job), "0.1").await["webhook"]["state"] == "delivered"
    })
    .await;
    let calls = receiver.calls();
    assert_eq!(calls.len(), 3, "302 is not followed, 500 is tried again");
    let verifier = standardwebhooks::Webhook::new(SECRET).unwrap();
    for (headers, body) in &calls {
        verifier.verify(body.as_bytes(), headers).expect("the signature is right");
        assert_eq!(headers["webhook-id"], calls[0].0["webhook-id"]);
        assert_eq!(body, &calls[0].1, "the same for every try");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((body["type"].as_str(), &body["data"]["id"]), (Some("job.done"), &job["id"]));
        assert!(body["data"]["result"]["data"].is_array() && !body.to_string().contains("whsec"), "{body}");
    }
    let shown = client::get(api, &format!("/v1/jobs/{}", id(&job))).await.unwrap().text();
    assert!(!shown.contains("whsec"), "{shown}");

    // A cancelled job is an end as well; a receiver that never takes it is given up.
    let (stubborn, addr) = Receiver::listen(&[503; 50]).await;
    let job = submit(api, &with_webhook(embed(&cluster, &json!("y")), addr)).await;
    eventually("the call is given up", LONG, || async {
        show(api, id(&job), "0.1").await["webhook"]["state"] == "failed"
    })
    .await;
    assert_eq!(stubborn.calls().len(), 5);

    // It tells why, is found, and is called again when somebody says so.
    let webhook = show(api, id(&job), "0.1").await["webhook"].clone();
    assert_eq!((webhook["tries"].as_u64(), webhook["reason"].as_str()), (Some(5), Some("status 503")), "{webhook}");
    let failed = client::get(api, "/v1/jobs?webhook=failed").await.unwrap().json();
    assert_eq!(failed["data"].as_array().map(Vec::len), Some(1), "{failed}");
    assert_eq!(failed["data"][0]["id"], job["id"]);
    stubborn.statuses.lock().unwrap().clear();
    let again = format!("/v1/jobs/{}/webhook", id(&job));
    let answer = client::post(api, &again, &json!({})).await.unwrap();
    assert_eq!((answer.status, &answer.json()["webhook"]["state"]), (202, &json!("pending")), "{}", answer.text());
    eventually("the call is delivered", LONG, || async {
        show(api, id(&job), "0.1").await["webhook"]["state"] == "delivered"
    })
    .await;
    let calls = stubborn.calls();
    assert_eq!(calls.len(), 6);
    assert_eq!(calls[5].0["webhook-id"], calls[0].0["webhook-id"], "the same call");
    assert_eq!(show(api, id(&job), "0.1").await["webhook"]["reason"], Value::Null);
    let without = submit(api, &embed(&cluster, &json!("z"))).await;
    let refused = client::post(api, &format!("/v1/jobs/{}/webhook", id(&without)), &json!({})).await.unwrap();
    assert_eq!(refused.status, 409, "{}", refused.text());
    cluster.stop().await;
}

#[tokio::test]
async fn a_webhook_does_not_reach_our_own_network() {
    let (receiver, addr) = Receiver::listen(&[]).await;
    let cluster = Cluster::start(two_apis()).await;
    let api = cluster.api(0).addr();
    let refused = client::post(api, "/v1/jobs", &with_webhook(embed(&cluster, &json!("x")), addr)).await.unwrap();
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("--webhook-allow-private"), "{}", refused.text());
    assert!(receiver.calls().is_empty());
    cluster.stop().await;
}
