//! Connections to the broker: one for each kind of traffic that must not wait behind another.

use forebay_shared::broker::{self, ConnectError, Link};
use forebay_shared::ids::BootId;
use forebay_shared::settings::BrokerArgs;

/// See the module.
pub struct Links {
    /// Small requests and their answers: models, records of tenants, statistics.
    pub control: Link,
    /// Jobs on their way to workers.
    pub publish: Link,
    /// Answers of workers.
    pub replies: Link,
    /// Asynchronous jobs with their results.
    pub jobs: Link,
    /// Batches: their records, parts and steps.
    pub batches: Link,
    /// Contents of files.
    pub files: Link,
}

impl Links {
    /// All at the same time.
    ///
    /// # Errors
    /// The first that cannot be made.
    pub async fn connect(broker: &BrokerArgs, boot: BootId, process: &str) -> Result<Self, ConnectError> {
        let link = |purpose| broker::connect(broker, boot, process, purpose);
        let (control, publish, replies, jobs, batches, files) = tokio::try_join!(
            link("control"),
            link("publish"),
            link("replies"),
            link("jobs"),
            link("batches"),
            link("files"),
        )?;
        Ok(Self { control, publish, replies, jobs, batches, files })
    }

    /// Those of the synchronous path: what they lose is counted.
    pub fn of_requests(&self) -> [Link; 3] {
        [self.control.clone(), self.publish.clone(), self.replies.clone()]
    }
}
