//! What each role may say to the broker and what not: every subject is tried on a real nats-server with generated accounts.
//!
//! The tables are written by hand, against the contract, not derived from the program's own: a right that slips in there
//! is refused here. An attempt is allowed when the broker says nothing to it before it answers the ping that follows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, Event};
use futures::StreamExt;
use support::{Cluster, ClusterOptions, eventually};

const USERS: [&str; 6] = ["api", "worker", "aggregator", "reaper", "operator", "system"];
const LIMIT: Duration = Duration::from_secs(10);

/// One connection and what the broker complained about on it.
struct Person {
    name: &'static str,
    client: Client,
    public_key: String,
    violations: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Publish,
    Subscribe,
}
use Act::{Publish, Subscribe};

impl Person {
    async fn connect(cluster: &Cluster, name: &'static str) -> Self {
        let seed = std::fs::read_to_string(cluster.credentials(name)).unwrap();
        let public_key = nkeys::KeyPair::from_seed(seed.trim()).unwrap().public_key();
        let violations = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&violations);
        let client = ConnectOptions::with_nkey(seed.trim().to_owned())
            .custom_inbox_prefix(format!("_INBOX.{}.test", &public_key[..13]))
            .event_callback(move |event| {
                let heard = Arc::clone(&heard);
                async move {
                    if let Event::ServerError(error) = event {
                        heard.lock().unwrap().push(error.to_string());
                    }
                }
            })
            .connect(cluster.broker_url())
            .await
            .unwrap();
        Self { name, client, public_key, violations }
    }

    /// Tries all of it and returns what was refused, in the order of `attempts`.
    async fn refused<'a>(&self, attempts: &'a [(Act, String)]) -> Vec<&'a (Act, String)> {
        // The client keeps only so many events for us at a time.
        for some in attempts.chunks(32) {
            let mut interests = Vec::new();
            for (act, subject) in some {
                match act {
                    Publish => self.client.publish(subject.clone(), "{}".into()).await.unwrap(),
                    Subscribe => interests.push(self.client.subscribe(subject.clone()).await.unwrap()),
                }
            }
            self.barrier().await;
        }
        let heard = self.violations.lock().unwrap().join("\n");
        let refused = |(act, subject): &&(Act, String)| {
            let verb = if *act == Publish { "Publish" } else { "Subscription" };
            heard.contains(&format!("Permissions Violation for {verb} to \"{subject}\""))
        };
        attempts.iter().filter(refused).collect()
    }

    /// All complaints so far have arrived: one more is provoked, and they come in order.
    async fn barrier(&self) {
        let subject = format!("forbidden.to.all.{}", rand_token());
        self.client.publish(subject.clone(), "".into()).await.unwrap();
        eventually("the broker complains", LIMIT, || async {
            self.violations.lock().unwrap().iter().any(|text| text.contains(&subject))
        })
        .await;
    }
}

fn rand_token() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
}

const JOBS: &str = "FOREBAY_JOBS_m-0123456789";
const BUCKETS: [&str; 8] = ["MODELS", "STATS", "ATTEMPTS", "REAPS", "RECORDS", "IDEMPOTENCY", "QUOTAS", "BATCHES"];
const OBJECTS: [&str; 2] = ["RESULTS", "FILES"];
const QUEUES: [&str; 5] = ["FOREBAY_ASYNC", "FOREBAY_PARTS", "FOREBAY_WEBHOOKS", "FOREBAY_DEAD", "FOREBAY_ADVISORIES"];
/// An acknowledgement in both forms.
fn acks(stream: &str, consumer: &str) -> Vec<String> {
    vec![
        format!("$JS.ACK.{stream}.{consumer}.1.2.3.1700000000000000000.0"),
        format!("$JS.ACK._.aBcDeFgH.{stream}.{consumer}.1.2.3.1700000000000000000.0.rand"),
    ]
}

/// Every subject that exists, as somebody would use it: each is tried by each user.
fn everything(boot: &str) -> Vec<(Act, String)> {
    let mut publish: Vec<String> = [
        "forebay.jobs.m-0123456789.normal.1",
        "forebay.roll",
        "forebay.cancel.m-0123456789",
        "forebay.live.m-0123456789",
        "forebay.async.m-0123456789.default",
        "forebay.parts.run.default",
        "forebay.webhooks.job",
        "forebay.dead.m-0123456789.job",
        "forebay.holding.m-0123456789.low.boot",
        "forebay.anything.else",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.s.c",
        "$SYS.REQ.SERVER.PING",
        "$SYS.REQ.SERVER.PING.CONNZ",
        "$SYS.REQ.SERVER.NABC.KICK",
        "$SYS.REQ.SERVER.NABC.RELOAD",
        "$SYS.REQ.ACCOUNT.FOREBAY.CONNZ",
        "$SYS.REQ.CLAIMS.UPDATE",
        "$SYS.ACCOUNT.FOREBAY.DISCONNECT",
        "$JS.API.ACCOUNT.PURGE.FOREBAY",
        "$JS.API.META.LEADER.STEPDOWN",
    ]
    .map(str::to_owned)
    .to_vec();
    for kind in ["rep", "ask", "held", "describe"] {
        publish.push(format!("forebay.{kind}.{boot}"));
    }
    for role in ["api", "worker", "aggregator"] {
        publish.push(format!("forebay.stats.{role}.{boot}"));
    }
    let streams = QUEUES.iter().map(|queue| (*queue).to_owned());
    let streams = streams.chain(BUCKETS.iter().map(|bucket| format!("KV_FOREBAY_{bucket}")));
    let streams = streams.chain(OBJECTS.iter().map(|objects| format!("OBJ_FOREBAY_{objects}")));
    for stream in streams.chain([JOBS.to_owned()]) {
        // STREAM.DELETE itself is tried too: the operator's is aimed at streams that are made for it.
        for verb in [
            "INFO",
            "CREATE",
            "UPDATE",
            "PURGE",
            "DELETE",
            "SNAPSHOT",
            "RESTORE",
            "MSG.GET",
            "MSG.DELETE",
            "LEADER.STEPDOWN",
        ] {
            publish.push(format!("$JS.API.STREAM.{verb}.{stream}"));
        }
        publish.push(format!("$JS.API.DIRECT.GET.{stream}"));
        publish.push(format!("$JS.API.CONSUMER.LIST.{stream}"));
        publish.push(format!("$JS.API.CONSUMER.NAMES.{stream}"));
        for consumer in ["normal", "mine"] {
            publish.push(format!("$JS.API.CONSUMER.CREATE.{stream}.{consumer}.filter"));
            for verb in ["INFO", "DELETE", "MSG.NEXT", "PAUSE", "UNPIN", "LEADER.STEPDOWN"] {
                publish.push(format!("$JS.API.CONSUMER.{verb}.{stream}.{consumer}"));
            }
            publish.extend(acks(&stream, consumer));
        }
    }
    publish.extend(BUCKETS.map(|bucket| format!("$KV.FOREBAY_{bucket}.key")));
    publish.extend(OBJECTS.map(|objects| format!("$O.FOREBAY_{objects}.M.name")));
    let mut subscribe: Vec<String> = [
        ">",
        "*",
        "forebay.>",
        "forebay.jobs.>",
        "forebay.rep.*",
        "forebay.ask.*",
        "forebay.live.*",
        "forebay.roll",
        "forebay.cancel.*",
        "forebay.held.*",
        "forebay.describe.*",
        "forebay.stats.*.*",
        "forebay.stats.api.*",
        "forebay.async.>",
        "forebay.parts.>",
        "forebay.holding.*.*.*",
        "forebay.webhooks.>",
        "forebay.dead.*.*",
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>",
        "$JS.API.>",
        "$JS.ACK.>",
        "$KV.>",
        "$O.>",
        "$SYS.>",
        "$SYS.ACCOUNT.FOREBAY.CONNECT",
        "$SYS.ACCOUNT.FOREBAY.DISCONNECT",
        "$SYS.ACCOUNT.OTHER.CONNECT",
        "$SYS.ACCOUNT.OTHER.DISCONNECT",
        "$SYS.ACCOUNT.*.CONNECT",
        "$SYS.ACCOUNT.*.DISCONNECT",
        "$SYS.ACCOUNT.SYS.CONNECT",
        "$SYS.SERVER.*.SHUTDOWN",
        "$SYS.SERVER.*.STATSZ",
        "$SYS.REQ.>",
        "_INBOX.>",
    ]
    .map(str::to_owned)
    .to_vec();
    subscribe.extend(BUCKETS.map(|bucket| format!("$KV.FOREBAY_{bucket}.>")));
    let publish = publish.into_iter().map(|subject| (Publish, subject));
    publish.chain(subscribe.into_iter().map(|subject| (Subscribe, subject))).collect()
}

/// What the contract gives to each; everything else of [`everything`] must be refused.
fn allowed(user: &str, act: Act, subject: &str) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| subject.starts_with(prefix));
    let is = |subjects: &[&str]| subjects.contains(&subject);
    let tokens: Vec<&str> = subject.split('.').collect();
    let ends_in = |streams: &[&str]| streams.iter().any(|stream| tokens.contains(stream));
    let of_jobs = ends_in(&[JOBS]);
    let on_lane = tokens.contains(&"normal");
    // Reads, creates and watches of a bucket or object store; writes to it besides.
    let reads = |names: &[&str]| {
        ends_in(names)
            && (starts(&[
                "$JS.API.STREAM.INFO.",
                "$JS.API.STREAM.CREATE.",
                "$JS.API.STREAM.MSG.GET.",
                "$JS.API.DIRECT.GET.",
            ]) || starts(&["$JS.API.CONSUMER.CREATE.", "$JS.API.CONSUMER.INFO.", "$JS.API.CONSUMER.DELETE."]))
    };
    let purges = |names: &[&str]| ends_in(names) && starts(&["$JS.API.STREAM.PURGE."]);
    let takes = |names: &[&str]| ends_in(names) && starts(&["$JS.API.CONSUMER.MSG.NEXT.", "$JS.ACK."]);
    let keeps = |names: &[&str]| {
        reads(names)
            || (starts(&["$KV.", "$O."])
                && names.iter().any(|name| subject.contains(name.trim_start_matches("KV_").trim_start_matches("OBJ_"))))
    };
    let works = |names: &[&str]| reads(names) || takes(names);
    let appends = |names: &[&str]| {
        ends_in(names) && starts(&["$JS.API.STREAM.INFO.", "$JS.API.STREAM.CREATE.", "$JS.API.CONSUMER.INFO."])
    };
    let acks_jobs = of_jobs && on_lane && starts(&["$JS.ACK."]);
    match (user, act) {
        ("api", Publish) => {
            starts(&[
                "forebay.jobs.",
                "forebay.cancel.",
                "forebay.async.",
                "forebay.parts.",
                "forebay.webhooks.",
                "forebay.holding.",
            ]) || starts(&["forebay.dead.", "forebay.stats.api.", "$JS.API.STREAM.INFO.", "$JS.API.CONSUMER.INFO."])
                || is(&["forebay.roll", "$JS.API.INFO"])
                || acks_jobs
                // Dead letters are listed, begun anew and erased at /v1/dead.
                || reads(&["FOREBAY_DEAD"])
                || (ends_in(&["FOREBAY_DEAD"]) && starts(&["$JS.API.CONSUMER.MSG.NEXT.", "$JS.API.STREAM.MSG.DELETE."]))
                || works(&["FOREBAY_ASYNC", "FOREBAY_PARTS", "FOREBAY_WEBHOOKS"])
                || reads(&["KV_FOREBAY_MODELS"])
                || keeps(&["KV_FOREBAY_RECORDS", "KV_FOREBAY_IDEMPOTENCY", "KV_FOREBAY_QUOTAS", "KV_FOREBAY_BATCHES"])
                // The outbox of webhooks follows the records.
                || takes(&["KV_FOREBAY_RECORDS"])
                || keeps(&["OBJ_FOREBAY_RESULTS", "OBJ_FOREBAY_FILES"])
                || purges(&["OBJ_FOREBAY_RESULTS", "OBJ_FOREBAY_FILES", "KV_FOREBAY_BATCHES"])
        }
        ("api", Subscribe) => {
            is(&["forebay.rep.*", "forebay.ask.*", "forebay.live.*", "forebay.describe.*", "forebay.stats.api.*"])
                || is(&["forebay.holding.*.*.*"])
        }
        ("worker", Publish) => {
            starts(&["forebay.rep.", "forebay.ask.", "forebay.held.", "forebay.live.", "forebay.dead.", "forebay.stats.worker."])
                || is(&["$JS.API.INFO"])
                || (starts(&["$JS.API.STREAM.INFO."])
                    && (!starts(&["$JS.API.STREAM.INFO.KV_"]) || ends_in(&["KV_FOREBAY_MODELS", "KV_FOREBAY_ATTEMPTS"])))
                || (of_jobs && starts(&["$JS.API.STREAM.CREATE."]))
                || (of_jobs && on_lane && starts(&["$JS.API.CONSUMER.CREATE.", "$JS.API.CONSUMER.INFO.", "$JS.API.CONSUMER.MSG.NEXT."]))
                // How far a consumer named like a lane would be: there is none on other streams.
                || (on_lane && starts(&["$JS.API.CONSUMER.INFO."]))
                || acks_jobs
                || appends(&["FOREBAY_DEAD", "FOREBAY_ADVISORIES"])
                || keeps(&["KV_FOREBAY_MODELS", "KV_FOREBAY_ATTEMPTS"])
        }
        ("worker", Subscribe) => is(&["forebay.roll", "forebay.cancel.*", "forebay.describe.*"]),
        ("aggregator", Publish) => {
            starts(&[
                "forebay.describe.",
                "forebay.stats.aggregator.",
                "$JS.API.STREAM.INFO.",
                "$JS.API.CONSUMER.INFO.",
            ]) || is(&["$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"])
                || keeps(&["KV_FOREBAY_STATS", "KV_FOREBAY_REAPS"])
                || purges(&["KV_FOREBAY_STATS"])
        }
        ("aggregator", Subscribe) => {
            is(&["forebay.stats.*.*", "forebay.stats.api.*", "forebay.live.*", "forebay.describe.*"])
        }
        ("reaper", Publish) => {
            starts(&["forebay.rep.", "forebay.dead.", "$JS.API.STREAM.INFO."])
                || is(&["$JS.API.INFO"])
                || (of_jobs && starts(&["$JS.API.STREAM.MSG.GET.", "$JS.API.STREAM.MSG.DELETE."]))
                || (on_lane && starts(&["$JS.API.CONSUMER.INFO."]))
                || acks_jobs
                || appends(&["FOREBAY_DEAD"])
                || works(&["FOREBAY_ADVISORIES"])
                || keeps(&["KV_FOREBAY_REAPS"])
        }
        ("reaper", Subscribe) => {
            is(&["forebay.held.*", "forebay.stats.*.*", "forebay.stats.api.*", "forebay.live.*"])
                || is(&["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"])
        }
        ("operator", Publish) => starts(&["forebay.", "$JS.API.", "$JS.ACK.", "$KV.", "$O."]),
        ("operator", Subscribe) => starts(&["forebay.", "$JS.EVENT.", "$JS.ACK.", "$KV.", "$O."]) || is(&["_INBOX.>"]),
        ("system", Publish) => is(&["$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.NABC.KICK"]),
        ("system", Subscribe) => {
            is(&["$SYS.ACCOUNT.FOREBAY.CONNECT", "$SYS.ACCOUNT.FOREBAY.DISCONNECT", "$SYS.SERVER.*.SHUTDOWN"])
        }
        _ => false,
    }
}

async fn broker_alone() -> Cluster {
    Cluster::start(ClusterOptions { apis: 0, workers: 0, aggregators: 0, ..ClusterOptions::default() }).await
}

#[tokio::test]
async fn every_subject_is_refused_to_whom_it_is_not_given_and_to_nobody_else() {
    let cluster = broker_alone().await;
    let attempts = everything("0123456789abcdef0123456789abcdef");
    let mut wrong = Vec::new();
    let (mut refusals, mut passes) = (0, 0);
    for user in USERS {
        let person = Person::connect(&cluster, user).await;
        let refused = person.refused(&attempts).await;
        for attempt @ (act, subject) in &attempts {
            let was_refused = refused.contains(&attempt);
            (refusals, passes) = (refusals + usize::from(was_refused), passes + usize::from(!was_refused));
            if was_refused == allowed(user, *act, subject) {
                let verdict = if was_refused { "was refused" } else { "was let through" };
                wrong.push(format!("{user}: {act:?} {subject} {verdict}"));
            }
        }
    }
    println!("{} subjects, {} users: {refusals} refused, {passes} let through", attempts.len(), USERS.len());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refusals > passes, "most of it is somebody else's");
}

#[tokio::test]
async fn an_inbox_is_its_owners_alone() {
    let cluster = broker_alone().await;
    let mut people = Vec::new();
    for user in USERS {
        people.push(Person::connect(&cluster, user).await);
    }
    for person in people.iter().filter(|person| person.name != "operator") {
        let inboxes: Vec<_> =
            people.iter().map(|other| (Subscribe, format!("_INBOX.{}.>", &other.public_key[..13]))).collect();
        let refused = person.refused(&inboxes).await;
        let own = format!("_INBOX.{}.>", &person.public_key[..13]);
        assert_eq!(refused.len(), USERS.len() - 1, "{}: {refused:?}", person.name);
        assert!(refused.iter().all(|(_, subject)| *subject != own), "{}", person.name);
        // Nor may it be written to without having been asked.
        if person.name != "operator" {
            let writes: Vec<_> = inboxes.iter().map(|(_, inbox)| (Publish, inbox.replace('>', "1.2"))).collect();
            assert_eq!(person.refused(&writes).await.len(), USERS.len(), "{}", person.name);
        }
    }
}

#[tokio::test]
async fn an_api_answers_the_question_of_a_worker_once_and_only_then() {
    let cluster = broker_alone().await;
    let (api, worker) = (Person::connect(&cluster, "api").await, Person::connect(&cluster, "worker").await);
    let mut questions = api.client.subscribe("forebay.ask.b").await.unwrap();
    api.barrier().await;
    let asked = worker.client.request("forebay.ask.b", "wanted?".into());
    let answer = async {
        let question = questions.next().await.unwrap();
        api.client.publish(question.reply.clone().unwrap(), "yes".into()).await.unwrap();
        question.reply.unwrap().to_string()
    };
    let (answered, inbox) = tokio::join!(asked, answer);
    assert_eq!(answered.unwrap().payload, "yes");
    assert_eq!(api.refused(&[(Publish, inbox)]).await.len(), 1, "a second answer to one question");
}

#[tokio::test]
async fn what_an_api_may_not_pull_stays_in_the_queue() {
    let cluster = Cluster::start(ClusterOptions { aggregators: 0, ..ClusterOptions::default() }).await;
    let operator = Person::connect(&cluster, "operator").await;
    let js = jetstream::new(operator.client.clone());
    let name = futures::TryStreamExt::try_collect::<Vec<_>>(js.stream_names()).await.unwrap();
    let name = name.into_iter().find(|name| name.starts_with("FOREBAY_JOBS_")).unwrap();
    cluster.worker(0).kill9();
    let token = name.trim_start_matches("FOREBAY_JOBS_").to_owned();
    js.publish(format!("forebay.jobs.{token}.normal.1"), "job".into()).await.unwrap().await.unwrap();
    let api = Person::connect(&cluster, "api").await;
    let inbox = format!("_INBOX.{}.pull", &api.public_key[..13]);
    let mut pulled = api.client.subscribe(inbox.clone()).await.unwrap();
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{name}.normal");
    api.client.publish_with_reply(next, inbox, r#"{"batch":1,"expires":500000000}"#.into()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), pulled.next()).await.is_err());
    assert_eq!(js.get_stream(&name).await.unwrap().cached_info().state.messages, 1);
}

#[tokio::test]
async fn a_role_says_what_to_do_when_the_broker_does_not_know_its_key() {
    let cluster = broker_alone().await;
    let elsewhere = tempfile::tempdir().unwrap();
    support::cluster::make_keys(elsewhere.path());
    let worker = |credentials: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args([
            "worker",
            "--model",
            "identity",
            "--broker",
            &cluster.broker_url(),
            "--metrics-addr",
            "127.0.0.1:0",
        ]);
        command.args(["--broker-credentials", credentials]).output().unwrap()
    };
    let stranger = elsewhere.path().join("keys/worker.nk");
    let output = worker(&stranger.display().to_string());
    let error = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(error.contains("refused these credentials") && error.contains("--broker-credentials"), "{error}");
    assert!(!error.contains(std::fs::read_to_string(&stranger).unwrap().trim()), "{error}");
    let missing = worker("/no/such/file.nk");
    let error = String::from_utf8_lossy(&missing.stderr);
    assert!(error.contains("--broker-credentials /no/such/file.nk: no such file"), "{error}");
}
