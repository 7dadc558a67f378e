//! `forebay migrate` against a broker: everything that it should find is found, and what it says it did is what it did.
//!
//! No process serves here; what processes would have made is made by their own code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod support;

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use forebay_shared::ids::{Lane, ModelToken, TenantName};
use forebay_shared::settings::{Durability, StoreArgs};
use forebay_shared::streams::{self, Bucket, Durable, EnsureError, Finding, Objects, Queue, Stores, Verdict};
use forebay_shared::subjects;
use futures::{StreamExt, TryStreamExt};
use support::{Cluster, ClusterOptions};

async fn broker() -> (Cluster, jetstream::Context) {
    let nobody = ClusterOptions { apis: 0, workers: 0, aggregators: 0, ..ClusterOptions::default() };
    let cluster = Cluster::start(nobody).await;
    let js = jetstream::new(cluster.broker_client().await);
    (cluster, js)
}

fn token() -> ModelToken {
    ModelToken::from("m-0123456789")
}

/// All that apis and workers make.
async fn make_everything(stores: &Stores) {
    stores.jobs(&token()).await.unwrap();
    for queue in Queue::ALL {
        stores.queue(queue).await.unwrap();
    }
    for bucket in Bucket::ALL {
        stores.bucket(bucket).await.unwrap();
    }
    for objects in Objects::ALL {
        stores.objects(objects).await.unwrap();
    }
    for durable in beside_the_lanes() {
        open(stores, &durable).await.unwrap();
    }
}

fn beside_the_lanes() -> [Durable; 7] {
    let turns = Durable::turns(&token(), &TenantName::default());
    let (ordinary, express) = (Durable::Async(token()), Durable::Express(token()));
    [turns, ordinary, express, Durable::BatchParts, Durable::BatchSteps, Durable::WebhookCalls, Durable::WebhookOutbox]
}

async fn open(stores: &Stores, durable: &Durable) -> Result<PullConsumer, EnsureError> {
    let stream = match durable {
        Durable::Turns(..) | Durable::Async(_) | Durable::Express(_) => stores.queue(Queue::Async).await?,
        Durable::BatchParts | Durable::BatchSteps => stores.queue(Queue::Parts).await?,
        Durable::WebhookCalls => stores.queue(Queue::Webhooks).await?,
        Durable::WebhookOutbox => stores.bucket(Bucket::Records).await?.stream,
        Durable::Lane(..) => unreachable!("opened with its stream"),
    };
    stores.consumer(&stream, durable).await
}

#[tokio::test]
async fn the_consumers_of_apis_are_migrated_too() {
    let (cluster, js) = broker().await;
    let stores = Stores::new(js.clone(), &StoreArgs::default());
    make_everything(&stores).await;
    let waiting = subjects::async_work(&token(), &TenantName::default());
    js.publish(waiting, "waits".into()).await.unwrap().await.unwrap();
    // As a replicated fleet would have left them.
    for durable in beside_the_lanes() {
        let stream = js.get_stream(durable.stream()).await.unwrap();
        let mut config = durable.config(stores.args());
        config.ack_wait = streams::ACK_WAIT_REPLICATED;
        let _changed: PullConsumer = stream.update_consumer(config).await.unwrap();
        let refused = open(&stores, &durable).await.unwrap_err().to_string();
        assert!(refused.contains("ack_wait = 15s") && refused.contains("forebay migrate"), "{refused}");
    }

    let shown: Vec<String> = stores.migrate(false).await.unwrap().findings.iter().map(ToString::to_string).collect();
    for durable in beside_the_lanes() {
        let line =
            format!("consumer {}/{}: changed in place\n    ack_wait: 15s → 5s", durable.stream(), durable.name());
        assert!(shown.contains(&line), "{line}\nis not in\n{}", shown.join("\n"));
    }
    let migration = stores.migrate(true).await.unwrap();
    assert!(migration.begun && migration.error.is_none() && migration.planned == 7, "{migration:?}");
    for durable in beside_the_lanes() {
        open(&stores, &durable).await.unwrap();
    }
    let taken = open(&stores, &Durable::turns(&token(), &TenantName::default())).await.unwrap();
    let mut messages = taken.fetch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap();
    assert_eq!(messages.next().await.unwrap().unwrap().payload, "waits");
    cluster.stop().await;
}

#[tokio::test]
async fn a_migration_to_a_newer_version_leaves_those_of_this_one_able_to_start() {
    let (cluster, js) = broker().await;
    let stores = Stores::new(js.clone(), &StoreArgs::default());
    make_everything(&stores).await;
    let names: Vec<String> = js.stream_names().try_collect().await.unwrap();
    let newer = async |reader: u32| {
        for name in &names {
            let mut config = js.get_stream(name).await.unwrap().cached_info().config.clone();
            config.max_bytes += 1;
            let version = streams::DEFINITIONS_VERSION + 1;
            config.metadata.insert(streams::VERSION_KEY.to_owned(), version.to_string());
            config.metadata.insert(streams::READER_KEY.to_owned(), reader.to_string());
            #[expect(clippy::disallowed_methods, reason = "this is the migration of a version to come")]
            js.update_stream(&config).await.unwrap();
        }
    };
    newer(streams::DEFINITIONS_VERSION).await;
    make_everything(&stores).await;
    newer(streams::DEFINITIONS_VERSION + 1).await;
    let refusals = [
        stores.queue(Queue::Async).await.map(drop),
        stores.bucket(Bucket::Models).await.map(drop),
        stores.objects(Objects::Files).await.map(drop),
        stores.jobs(&token()).await,
    ];
    for refused in refusals {
        assert!(matches!(refused, Err(EnsureError::Newer { found: 2, .. })), "{refused:?}");
    }
    // Back again is not for this version to say.
    let migration = stores.migrate(true).await.unwrap();
    assert!(!migration.begun);
    let refused = migration.findings.iter().filter(|finding| finding.verdict.is_refused()).count();
    assert_eq!(refused, names.len());
    cluster.stop().await;
}

#[tokio::test]
async fn storage_changes_once_the_queue_is_drained_and_who_takes_from_it_goes_on() {
    let (cluster, js) = broker().await;
    let file = Stores::new(js.clone(), &StoreArgs::default());
    make_everything(&file).await;
    let subject = subjects::jobs(&token(), Lane::Normal, 1);
    js.publish(subject.clone(), "a job".into()).await.unwrap().await.unwrap();
    file.bucket(Bucket::Models).await.unwrap().put("key", "value".into()).await.unwrap();
    let memory = StoreArgs { durability: Durability::Memory, ..StoreArgs::default() };
    let memory = Stores::new(js.clone(), &memory);

    let migration = memory.migrate(true).await.unwrap();
    let refused: Vec<_> = migration.findings.iter().filter(|finding| finding.verdict.is_refused()).collect();
    let name = streams::jobs_stream(&token());
    assert!(refused.len() == 1 && refused[0].name == name && !migration.begun, "{migration:?}");

    let jobs = js.get_stream(&name).await.unwrap();
    jobs.purge().await.unwrap();
    let lane: PullConsumer = jobs.get_consumer("normal").await.unwrap();
    let migration = memory.migrate(true).await.unwrap();
    assert!(migration.begun && migration.error.is_none(), "{migration:?}");
    let anew = |finding: &&Finding| matches!(finding.verdict, Verdict::Changed { anew: true, .. });
    assert_eq!(migration.findings.iter().filter(anew).count(), 1);
    // Nobody has started anew, and the next job arrives.
    js.publish(subject, "the next".into()).await.unwrap().await.unwrap();
    let mut messages = lane.fetch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap();
    assert_eq!(messages.next().await.unwrap().unwrap().payload, "the next");
    make_everything(&memory).await;
    let migration = memory.migrate(false).await.unwrap();
    assert!(migration.planned == 0 && !migration.findings.iter().any(|found| found.verdict.is_refused()));
    cluster.stop().await;
}
