//! What each user may publish and subscribe: the one table from which the broker's configuration is made.
//!
//! Everything not listed is refused by the broker. Two limits of its language shape the table:
//! - A wildcard stands for a whole token, and a model's stream is one token (`FOREBAY_JOBS_<token>`). So what is allowed on
//!   "the streams of jobs" is allowed on any stream's **consumers of that name** (the three lanes), and then denied on
//!   every stream, bucket and object store that is not one of jobs. No other stream has a consumer named like a lane.
//! - A user's rights are the same for all its processes: an api can listen to what is meant for another api. Between the
//!   roles nothing is shared; inboxes begin with the user's public key.

use forebay_shared::ids::{Lane, Role};
use forebay_shared::streams::{Bucket, Objects, Queue};
use forebay_shared::subjects;

/// Who talks to the broker. All but `System` belong to the account `FOREBAY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    Api,
    Worker,
    Aggregator,
    /// A task of the aggregator, with a connection of its own.
    Reaper,
    /// Commands that people run: `forebay dead`, `migrate`, `doctor`, `erase`.
    Operator,
    /// Sees who connects and disconnects, and can disconnect: a second connection of the reaper.
    System,
}

impl User {
    pub const ALL: [Self; 6] = [Self::Api, Self::Worker, Self::Aggregator, Self::Reaper, Self::Operator, Self::System];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Aggregator => "aggregator",
            Self::Reaper => "reaper",
            Self::Operator => "operator",
            Self::System => "system",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Permissions {
    pub publish: Vec<String>,
    /// Wins over `publish`.
    pub never_publish: Vec<String>,
    pub subscribe: Vec<String>,
    /// May answer whoever asks it something.
    pub answers: bool,
}

/// What a user may do with one stream that there is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    Nothing,
    /// Its size and state, nothing of its content.
    Look,
    /// Add to it, and create it.
    Append,
    /// Read all of it, and create it.
    Read,
    /// Read, add, take, acknowledge.
    Use,
}

fn right_to_queue(user: User, queue: Queue) -> Right {
    match (user, queue) {
        (User::Worker | User::Reaper, Queue::Dead) => Right::Append,
        // Only so that it is there before the first message is given up: the broker alone publishes what it holds.
        (User::Worker, Queue::Advisories) => Right::Append,
        (User::Api, Queue::Advisories) => Right::Nothing,
        (User::Api, _) => Right::Use,
        (User::Reaper, Queue::Advisories) => Right::Use,
        (User::Aggregator, _) => Right::Look,
        _ => Right::Nothing,
    }
}

fn right_to_bucket(user: User, bucket: Bucket) -> Right {
    match (user, bucket) {
        (User::Worker, Bucket::Models | Bucket::Attempts) => Right::Use,
        (User::Api, Bucket::Records | Bucket::Idempotency | Bucket::Quotas | Bucket::Batches) => Right::Use,
        (User::Api, Bucket::Models) => Right::Read,
        (User::Aggregator, Bucket::Stats | Bucket::Reaps) => Right::Use,
        (User::Reaper, Bucket::Reaps) => Right::Use,
        _ => Right::Nothing,
    }
}

fn right_to_objects(user: User, objects: Objects) -> Right {
    match (user, objects) {
        (User::Api, Objects::Results | Objects::Files) => Right::Use,
        _ => Right::Nothing,
    }
}

/// The whole table. `public_key`: the user's own.
pub(super) fn permissions(user: User, public_key: &str) -> Permissions {
    let mut table = Permissions::default();
    table.subscribe([subjects::inboxes(public_key)]);
    match user {
        User::Api => {
            table.publish(["forebay.jobs.>", subjects::ROLL_CALL, "forebay.cancel.*", "forebay.holding.>"]);
            table.publish(["forebay.async.>", "forebay.parts.>", "forebay.webhooks.>", subjects::DEAD_ALL]);
            table.publish(["$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.*.*"]);
            table.acknowledge_jobs();
            table.report(Role::Api);
            table.subscribe(["forebay.rep.*", "forebay.ask.*", subjects::LIVE_ALL]);
            table.subscribe(["forebay.stats.api.*", "forebay.holding.>"]);
            table.answers = true;
        }
        User::Worker => {
            table.publish(["forebay.rep.*", "forebay.ask.*", "forebay.held.*", "forebay.live.*", subjects::DEAD_ALL]);
            table.publish(["$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.INFO.*"]);
            for lane in Lane::ALL.map(Lane::as_str) {
                table.publish([
                    format!("$JS.API.CONSUMER.CREATE.*.{lane}.>"),
                    format!("$JS.API.CONSUMER.INFO.*.{lane}"),
                    format!("$JS.API.CONSUMER.MSG.NEXT.*.{lane}"),
                ]);
            }
            table.acknowledge_jobs();
            table.report(Role::Worker);
            table.subscribe([subjects::ROLL_CALL, "forebay.cancel.*"]);
        }
        User::Aggregator => {
            table.publish(["forebay.describe.*"]);
            table.publish(["$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*"]);
            table.publish(["$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*"]);
            table.report(Role::Aggregator);
            table.subscribe([subjects::STATS_ALL, subjects::LIVE_ALL]);
        }
        User::Reaper => {
            table.publish(["$JS.API.STREAM.MSG.GET.*", "$JS.API.STREAM.MSG.DELETE.*", "$JS.API.STREAM.INFO.*"]);
            table.publish(["forebay.rep.*", subjects::DEAD_ALL]);
            table.publish(Lane::ALL.map(|lane| format!("$JS.API.CONSUMER.INFO.*.{}", lane.as_str())));
            table.acknowledge_jobs();
            table.subscribe([subjects::HELD_ALL, subjects::STATS_ALL, subjects::LIVE_ALL]);
            table.subscribe([subjects::ADVISORIES_MAX_DELIVERIES]);
        }
        User::Operator => {
            // Everything in the account but to pose as the broker, whose advisories and answers others believe.
            table.publish(["forebay.>", "$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$KV.>", "$O.>"]);
            table.subscribe(["forebay.>", "_INBOX.>", "$JS.EVENT.>", "$JS.ACK.>", "$KV.>", "$O.>"]);
            table.answers = true;
            return table;
        }
        User::System => {
            table.publish(["$SYS.REQ.SERVER.*.KICK", "$SYS.REQ.SERVER.PING.CONNZ"]);
            table.subscribe(["$SYS.ACCOUNT.*.CONNECT", "$SYS.ACCOUNT.*.DISCONNECT", "$SYS.SERVER.*.SHUTDOWN"]);
            return table;
        }
    }
    // Processes of the version before ask for it before they create a bucket.
    table.publish(["$JS.API.INFO"]);
    for queue in Queue::ALL {
        table.stream(queue.name(), right_to_queue(user, queue), &[]);
    }
    for bucket in Bucket::ALL {
        table.stream(
            &format!("KV_{}", bucket.name()),
            right_to_bucket(user, bucket),
            &[format!("$KV.{}.>", bucket.name())],
        );
    }
    for objects in Objects::ALL {
        let name = objects.name();
        table.stream(&format!("OBJ_{name}"), right_to_objects(user, objects), &[format!("$O.{name}.>")]);
    }
    // What nothing allows need not be denied.
    let Permissions { publish, never_publish, .. } = &mut table;
    never_publish.retain(|never| publish.iter().any(|allowed| overlap(allowed, never)));
    table
}

/// Whether some subject matches both patterns.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

impl Permissions {
    fn publish<S: Into<String>>(&mut self, subjects: impl IntoIterator<Item = S>) {
        self.publish.extend(subjects.into_iter().map(Into::into));
    }

    fn never<S: Into<String>>(&mut self, subjects: impl IntoIterator<Item = S>) {
        self.never_publish.extend(subjects.into_iter().map(Into::into));
    }

    fn subscribe<S: Into<String>>(&mut self, subjects: impl IntoIterator<Item = S>) {
        self.subscribe.extend(subjects.into_iter().map(Into::into));
    }

    /// Statistics are sent as oneself, and described on request.
    fn report(&mut self, role: Role) {
        self.publish([format!("forebay.stats.{}.*", role.as_str())]);
        self.subscribe(["forebay.describe.*"]);
    }

    /// In both forms of the subject: newer brokers put a domain and the account's hash before the stream.
    fn acknowledge_jobs(&mut self) {
        for lane in Lane::ALL.map(Lane::as_str) {
            self.publish([format!("$JS.ACK.*.{lane}.>"), format!("$JS.ACK.*.*.*.{lane}.>")]);
        }
    }

    /// `content`: subjects that are written to it, where those are its own.
    fn stream(&mut self, name: &str, right: Right, content: &[String]) {
        let acknowledge = [format!("$JS.ACK.{name}.>"), format!("$JS.ACK.*.*.{name}.>")];
        let consumers = [
            format!("$JS.API.CONSUMER.CREATE.{name}"),
            format!("$JS.API.CONSUMER.CREATE.{name}.>"),
            format!("$JS.API.CONSUMER.DELETE.{name}.*"),
        ];
        let take = [format!("$JS.API.CONSUMER.MSG.NEXT.{name}.*")];
        let info = [format!("$JS.API.STREAM.INFO.{name}"), format!("$JS.API.CONSUMER.INFO.{name}.*")];
        let create = [format!("$JS.API.STREAM.CREATE.{name}")];
        let read = [
            format!("$JS.API.STREAM.MSG.GET.{name}"),
            format!("$JS.API.DIRECT.GET.{name}"),
            format!("$JS.API.DIRECT.GET.{name}.>"),
            // A reader says with these how far it is; they move nothing of others.
            format!("$JS.FC.{name}.>"),
            format!("$JS.FC.*.*.{name}.>"),
        ];
        let erase = [format!("$JS.API.STREAM.MSG.DELETE.{name}")];
        // An object or key is removed by a purge of its subject, which the broker calls a purge of the stream.
        let purge = [format!("$JS.API.STREAM.PURGE.{name}")];
        match right {
            Right::Nothing => {
                self.never(acknowledge);
                self.never(consumers);
                self.never(take);
                self.never(create);
                self.never(read);
                self.never(erase);
            }
            Right::Look => self.publish(info),
            Right::Append => {
                self.publish(info);
                self.publish(create);
                self.never(acknowledge);
                self.never(consumers);
                self.never(take);
                self.never(read);
                self.never(erase);
            }
            Right::Read => {
                self.publish(info);
                self.publish(create);
                self.publish(consumers);
                self.publish(read);
                self.never(acknowledge);
                self.never(take);
                self.never(erase);
            }
            Right::Use if content.is_empty() => {
                self.publish(info);
                self.publish(create);
                self.publish(consumers);
                self.publish(read);
                self.publish(take);
                self.publish(acknowledge);
                self.publish(erase);
            }
            Right::Use => {
                self.publish(info);
                self.publish(create);
                self.publish(consumers);
                self.publish(read);
                self.publish(purge);
                self.publish(content.iter().cloned());
                // Changes of a bucket can be followed like messages of a queue: the outbox of webhooks does.
                self.publish(take);
                self.publish(acknowledge);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_overlap_when_a_subject_fits_both() {
        for (a, b) in [("a.*", "a.b"), ("a.>", "a.b.c"), ("*.b.>", "a.*.c"), ("a", "a")] {
            assert!(overlap(a, b) && overlap(b, a), "{a} {b}");
        }
        for (a, b) in [("a.*", "a.b.c"), ("a.>", "a"), ("a.b", "a.c"), ("a.*.c", "a.b.d")] {
            assert!(!overlap(a, b) && !overlap(b, a), "{a} {b}");
        }
    }

    #[test]
    fn no_stream_of_ours_has_the_name_of_another() {
        let mut names: Vec<String> = Queue::ALL.iter().map(|queue| queue.name().to_owned()).collect();
        names.extend(Bucket::ALL.iter().map(|bucket| format!("KV_{}", bucket.name())));
        names.extend(Objects::ALL.iter().map(|objects| format!("OBJ_{}", objects.name())));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn nobody_but_the_operator_may_delete_purge_or_change_a_stream_of_messages() {
        for user in User::ALL.into_iter().filter(|user| *user != User::Operator) {
            let table = permissions(user, "UABCDEFGHIJKLMNOP");
            for stream in ["FOREBAY_JOBS_m-0123456789", "FOREBAY_ASYNC", "FOREBAY_DEAD", "KV_FOREBAY_MODELS"] {
                for verb in ["DELETE", "UPDATE", "RESTORE", "SNAPSHOT"] {
                    let subject = format!("$JS.API.STREAM.{verb}.{stream}");
                    assert!(!table.publish.iter().any(|allowed| overlap(allowed, &subject)), "{user:?} {subject}");
                }
            }
        }
    }
}
