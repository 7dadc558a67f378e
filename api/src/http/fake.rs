//! A fleet made of one closure, for tests of everything in front of the queue.

use std::sync::Arc;
use std::time::Duration;

use forebay_shared::error::JobError;
use forebay_shared::ids::ModelToken;
use forebay_shared::job::{Input, Output};
use forebay_shared::metrics::ApiMetrics;
use forebay_shared::model::ModelRecord;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{AppState, Backend};
use crate::dispatch::Submission;
use crate::validate::RequestLimits;

type Respond = Box<dyn Fn(&Submission) -> BoxFuture<'static, Result<Vec<Output>, JobError>> + Send + Sync>;

/// Answers with `respond`, keeps what was submitted.
pub struct FakeFleet {
    pub ready: bool,
    pub models: Vec<Arc<ModelRecord>>,
    pub workers: usize,
    pub respond: Respond,
    pub submitted: Mutex<Vec<Submission>>,
}

pub fn model(name: &str) -> Arc<ModelRecord> {
    Arc::new(ModelRecord {
        name: name.into(),
        token: "m-0123456789".into(),
        architecture: "identity".to_owned(),
        dtype: "f32".to_owned(),
        dimensions: 2,
        max_tokens: 512,
        pooling: "mean".to_owned(),
        normalize: true,
        matryoshka_dimensions: vec![1],
        created: 1_700_000_000,
    })
}

/// A row's vector is its length and its position.
pub fn echo(submission: &Submission) -> Vec<Output> {
    let vector = |input: &Input, index: usize| {
        [input.len_bytes() as f32, index as f32].iter().flat_map(|number| number.to_le_bytes()).collect()
    };
    let rows = submission.rows.iter().enumerate();
    rows.map(|(index, input)| Output { tokens: 3, device_us: 0, vector: vector(input, index) }).collect()
}

impl Default for FakeFleet {
    fn default() -> Self {
        Self {
            ready: true,
            models: vec![model("org/m")],
            workers: 1,
            respond: Box::new(|submission| Box::pin(std::future::ready(Ok(echo(submission))))),
            submitted: Mutex::default(),
        }
    }
}

impl FakeFleet {
    /// Every request ends with `error`.
    pub fn failing(error: JobError) -> Self {
        Self { respond: Box::new(move |_| Box::pin(std::future::ready(Err(error.clone())))), ..Self::default() }
    }

    pub fn state(self) -> AppState<Self> {
        let limits = RequestLimits {
            max_body_bytes: 1_000,
            max_inputs: 4,
            default_timeout: Duration::from_secs(30),
            max_timeout: Duration::from_secs(600),
            body_timeout: Duration::from_secs(30),
        };
        AppState::with_backend(self, Arc::new(ApiMetrics::new()), limits)
    }
}

impl Backend for FakeFleet {
    fn submit(&self, submission: Submission) -> impl Future<Output = Result<Vec<Output>, JobError>> + Send {
        let answer = (self.respond)(&submission);
        self.submitted.lock().push(submission);
        answer
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    fn find(&self, name: &str) -> Option<Arc<ModelRecord>> {
        self.models.iter().find(|model| model.name.as_str() == name).cloned()
    }

    fn list(&self) -> Vec<Arc<ModelRecord>> {
        self.models.clone()
    }

    fn sole(&self) -> Option<Arc<ModelRecord>> {
        if let [model] = &*self.models { Some(Arc::clone(model)) } else { None }
    }

    fn live_workers(&self, _: &ModelToken) -> usize {
        self.workers
    }
}
