//! `forebay dead`: the jobs that were put aside, for the people who run the system.
//!
//! Shows sizes and digests, never inputs. What the broker itself gave up delivering is listed beside.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use forebay_shared::broker::{self, Link};
use forebay_shared::clock::BrokerClock;
use forebay_shared::dead::{self, DeadLetter, DeadLetters, Filter, Summary, Undeliverable};
use forebay_shared::ids::{BootId, JobId};
use forebay_shared::settings::BrokerArgs;
use forebay_shared::streams::{MODELS_STREAM, Stores};
use serde_json::json;

#[derive(Args, Debug)]
pub struct DeadArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List the newest dead letters, and messages that the broker gave up delivering.
    List {
        /// At most so many dead letters.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Show everything about one dead letter but its input.
    Show {
        /// Id of the job.
        id: JobId,
        #[command(flatten)]
        target: Target,
    },
    /// Begin jobs anew, as asynchronous work of the next generation; their dead letters are removed.
    Replay {
        /// Ids of the jobs.
        #[arg(required = true)]
        ids: Vec<JobId>,
        /// How long a job may take from now on.
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration, value_name = "DURATION")]
        timeout: Duration,
        #[command(flatten)]
        target: Target,
    },
    /// Erase dead letters, inputs included.
    Drop {
        /// Ids of the jobs.
        #[arg(required = true)]
        ids: Vec<JobId>,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Args, Debug)]
struct Target {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    broker: BrokerArgs,
}

pub fn run(args: DeadArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(act(args.action)))
}

/// The broker, and what is kept there.
struct Open {
    link: Link,
    stores: Stores,
    letters: DeadLetters,
}

async fn open(target: &Target) -> anyhow::Result<Open> {
    let link = broker::connect(&target.broker, BootId::random(), "operator", "dead").await?;
    let stores = Stores::new(link.jetstream(), &target.broker.stores);
    let letters = DeadLetters::open(&stores, link.jetstream()).await?;
    Ok(Open { link, stores, letters })
}

async fn act(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::List { limit, target } => list(limit, &target).await,
        Action::Show { id, target } => show(id, &target).await,
        Action::Replay { ids, timeout, target } => {
            let open = open(&target).await?;
            let clock = BrokerClock::from_wall_clock();
            clock.sync(&open.link.client, MODELS_STREAM).await.context("cannot read the broker's clock")?;
            each(&ids, target.json, async |id| {
                let Some(letter) = open.letters.find(id, None).await? else { bail!(missing(id)) };
                let replayed = open.letters.replay(&open.stores, &letter, clock.now_us(), timeout).await?;
                Ok((format!("queued as generation {} of job {}", replayed.generation, replayed.job), json!(replayed)))
            })
            .await
        }
        Action::Drop { ids, target } => {
            let open = open(&target).await?;
            each(&ids, target.json, async |id| match open.letters.remove(id).await? {
                true => Ok(("erased".to_owned(), json!({ "erased": true }))),
                false => bail!(missing(id)),
            })
            .await
        }
    }
}

fn missing(id: &JobId) -> String {
    format!("no dead letter has the id {id}; see `forebay dead list`")
}

/// Does one thing to each, whatever becomes of the others; fails if one failed.
async fn each(
    ids: &[JobId],
    json: bool,
    mut act: impl AsyncFnMut(&JobId) -> anyhow::Result<(String, serde_json::Value)>,
) -> anyhow::Result<ExitCode> {
    let mut done = Vec::new();
    let mut outcome = ExitCode::SUCCESS;
    for id in ids {
        match act(id).await {
            Ok((text, value)) => {
                if !json {
                    println!("{id}  {text}");
                }
                done.push(json!({ "id": id, "ok": true, "result": value }));
            }
            Err(error) => {
                eprintln!("error: {}", crate::one_line(&error));
                done.push(json!({ "id": id, "ok": false, "error": crate::one_line(&error) }));
                outcome = ExitCode::FAILURE;
            }
        }
    }
    if json {
        println!("{}", json!({ "jobs": done }));
    }
    Ok(outcome)
}

async fn list(limit: usize, target: &Target) -> anyhow::Result<ExitCode> {
    let open = open(target).await?;
    let letters = open.letters.list(&Filter { tenant: None, limit }).await?;
    let given_up = dead::undeliverable(&open.stores).await?;
    if target.json {
        println!("{}", json!({ "dead": letters, "undeliverable": given_up }));
        return Ok(ExitCode::SUCCESS);
    }
    if letters.is_empty() {
        println!("no dead letters");
    } else {
        println!("{:<32}  {:<20}  {:<24}  {:<12}  {:>9}  workers", "id", "put aside", "model", "tenant", "bytes");
        letters.iter().for_each(|letter| println!("{}", line(letter)));
    }
    if !given_up.is_empty() {
        println!("\nmessages that the broker gave up delivering (still in their streams):");
        given_up.iter().for_each(|message| println!("{}", undelivered(message)));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(id: JobId, target: &Target) -> anyhow::Result<ExitCode> {
    let letters = open(target).await?.letters;
    let Some(letter) = letters.find(&id, None).await? else { bail!(missing(&id)) };
    if target.json {
        println!("{}", json!(letter.summary()));
    } else {
        print!("{}", page(&letter));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(letter: &Summary) -> String {
    let Summary { id, died_us, model, tenant, input_bytes, starts, .. } = letter;
    let workers: Vec<&str> = starts.iter().map(|start| start.process.as_str()).collect();
    let (at, workers) = (time(*died_us), workers.join(", "));
    format!("{id}  {at:<20}  {model:<24}  {tenant:<12}  {input_bytes:>9}  {workers}")
}

fn undelivered(message: &Undeliverable) -> String {
    let Undeliverable { stream, consumer, stream_seq, deliveries, at } = message;
    format!("{at}  {stream}/{consumer}  sequence {stream_seq}, {deliveries} deliveries")
}

fn page(letter: &DeadLetter) -> String {
    let summary = letter.summary();
    let mut text = String::new();
    let mut row = |name: &str, value: String| text.push_str(&format!("{name:<12}{value}\n"));
    row("id", summary.id.to_string());
    row("generation", summary.generation.to_string());
    row("tenant", summary.tenant.to_string());
    row("model", format!("{} ({})", summary.model, summary.token));
    row("task", format!("{}, lane {}", summary.task, summary.lane.as_str()));
    row("accepted", format!("{} by the api with boot {}", time(summary.enqueued_us), letter.api));
    row("put aside", format!("{} because of {}", time(summary.died_us), summary.reason.as_str().replace('_', " ")));
    row("input", format!("{} bytes, digest {}", summary.input_bytes, summary.input_digest));
    for start in &summary.starts {
        let at = time(start.at_us);
        row("started", format!("{at} by {} (boot {}), delivery {}", start.process, start.boot, start.attempt));
    }
    text
}

/// RFC 3339, whole seconds.
fn time(unix_us: u64) -> String {
    let at: SystemTime = UNIX_EPOCH + Duration::from_micros(unix_us);
    humantime::format_rfc3339_seconds(at).to_string()
}
