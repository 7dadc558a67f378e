//! Runs the lines of one part and stores their answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_shared::error::JobError;
use forebay_shared::ids::{Lane, ModelName};
use forebay_shared::job::{Input, Task};
use forebay_shared::metrics::{JobSource, LineEnd, Task as TaskLabel};
use forebay_shared::model::ModelRecord;
use forebay_shared::telemetry::otlp;
use futures::StreamExt;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::begun::Begun;
use super::line::{self, End, LineKey, Skip};
use super::part::{Marker, Part, Segment};
use super::record::Phase;
use super::records::StoreError;
use super::room::{ANSWERS_PERCENT, ENDS_PERCENT};
use super::verdict::{Verdict, judge};
use super::{BatchError, Batches, batch_key, marker_key, markers_of};
use crate::dialect::Dialect;
use crate::dispatch::Submission;
use crate::error::Failure;
use crate::routes::vectors;
use crate::validate::body::parse;
use crate::validate::embed::{Encoding, options};
use crate::validate::rows::RowFault;

/// Lines of one part that are in flight at once: enough for the publisher to fill bundles.
const LINES_AT_ONCE: usize = 128;
/// How long one attempt waits in the lane before it is made again.
const ATTEMPT_TIME: Duration = Duration::from_secs(120);
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// How often a full store is tried again, and how long its answers are kept here before the part is given back.
const FULL_PAUSE: Duration = Duration::from_secs(5);
const FULL_PATIENCE: Duration = Duration::from_secs(30);

/// Whether a part should go on.
pub(super) type Stop = watch::Receiver<Option<Skip>>;

/// The place of a part among those that run. Given up while nothing moves, so that another's part can run.
pub(super) struct Place {
    places: Arc<Semaphore>,
    held: tokio::sync::Mutex<Option<OwnedSemaphorePermit>>,
    begun: Arc<Begun>,
}

impl Place {
    pub(super) fn new(places: Arc<Semaphore>, held: Option<OwnedSemaphorePermit>, begun: Arc<Begun>) -> Self {
        Self { places, held: tokio::sync::Mutex::new(held), begun }
    }

    pub(super) async fn take(&self) {
        let mut held = self.held.lock().await;
        if held.is_none() {
            // It is closed only with the process.
            *held = Arc::clone(&self.places).acquire_owned().await.ok();
        }
    }

    pub(super) async fn give_up(&self) {
        self.held.lock().await.take();
        self.begun.withdraw().await;
    }
}

/// A line that can be submitted.
struct Work {
    model: Arc<ModelRecord>,
    task: Task,
    encoding: Encoding,
    rows: Vec<Input>,
}

/// What the owner of a batch may use.
#[derive(Debug, Clone)]
struct Models(Arc<Option<Vec<ModelName>>>);

impl From<Option<Vec<ModelName>>> for Models {
    fn from(allowed: Option<Vec<ModelName>>) -> Self {
        Self(Arc::new(allowed))
    }
}

impl Models {
    fn check(&self, model: &ModelName) -> Result<(), Failure> {
        match self.0.as_ref() {
            Some(allowed) if !allowed.contains(model) => {
                Err(Failure::Forbidden(format!("the API key that began this batch may not use the model '{model}'")))
            }
            _ => Ok(()),
        }
    }
}

impl Batches {
    /// Runs a part unless somebody has, and finishes the batch if it was the last.
    pub(super) async fn run_part(
        self: &Arc<Self>,
        part: Arc<Part>,
        place: Place,
        stop: Stop,
    ) -> Result<(), BatchError> {
        let Some(found) = self.find(&part.tenant, &part.batch).await? else { return Ok(()) };
        if found.value.phase.is_over() {
            return Ok(self.sweep(&found.value).await?);
        }
        let key = marker_key(&part.batch, part.number);
        if self.records.get::<Marker>(&key).await?.is_none() {
            // Nothing is computed that there is no room for; lines that are only written off have room of their own.
            if stop.borrow().is_none() && !self.files.level().await?.takes(0, ANSWERS_PERCENT) {
                return Err(StoreError::Full("it has no room for answers".to_owned()).into());
            }
            let place = Arc::new(place);
            let answers = self.execute(&part, Arc::clone(&place), stop, found.value.models.clone().into()).await;
            if self.find(&part.tenant, &part.batch).await?.is_none() {
                // Erased while it ran: what was computed is not kept.
                return Ok(());
            }
            self.keep_answers(&part, answers, &place).await?;
        }
        let markers = self.records.count(&self.queue, &markers_of(&part.batch)).await?;
        if markers >= found.value.parts as usize {
            self.finish(&part.tenant, &part.batch).await?;
        }
        Ok(())
    }

    /// Writes all of a part's lines off as failed: it has ended more than one process.
    pub(super) async fn write_off(self: &Arc<Self>, part: &Part, place: &Place) -> Result<(), BatchError> {
        let Some(found) = self.find(&part.tenant, &part.batch).await? else { return Ok(()) };
        let mut answers = Answers::default();
        for (text, index) in part.lines.iter().zip(part.first_line..) {
            let (status, body) = refusal(JobError::Internal.into()).await;
            answers.add(LineKey::new(&part.batch, index), &custom_id(text), &End::Answered { status, body });
        }
        self.keep_answers(part, answers, place).await?;
        if self.records.count(&self.queue, &markers_of(&part.batch)).await? >= found.value.parts as usize {
            self.finish(&part.tenant, &part.batch).await?;
        }
        Ok(())
    }

    async fn execute(self: &Arc<Self>, part: &Arc<Part>, place: Arc<Place>, stop: Stop, models: Models) -> Answers {
        let lines = (0..part.lines.len()).map(|index| {
            let (batches, part, place, stop) = (Arc::clone(self), Arc::clone(part), Arc::clone(&place), stop.clone());
            let models = models.clone();
            async move { batches.line(&part, index, &place, stop, &models).await }
        });
        let mut ended = futures::stream::iter(lines).buffered(LINES_AT_ONCE);
        let mut answers = Answers::default();
        while let Some((key, custom_id, end)) = ended.next().await {
            answers.add(key, &custom_id, &end);
        }
        answers
    }

    /// Runs one line to its end.
    async fn line(
        &self,
        part: &Part,
        index: usize,
        place: &Place,
        mut stop: Stop,
        models: &Models,
    ) -> (LineKey, String, End) {
        let number = part.first_line + index as u64;
        let key = LineKey::new(&part.batch, number);
        let line = match line::read(part.lines[index].as_bytes(), number + 1) {
            Ok(line) => line,
            Err(fault) => {
                let error = JobError::InvalidInput { message: fault.message, param: fault.param };
                let (status, body) = refusal(error.into()).await;
                return (key, custom_id(&part.lines[index]), End::Answered { status, body });
            }
        };
        let run = async {
            match self.attempts(part, &line.body, place, models).await {
                Ok(body) => (200, body),
                Err(failure) => refusal(failure).await,
            }
        };
        let end = tokio::select! {
            biased;
            skip = stopped(&mut stop) => End::Skipped(skip),
            (status, body) = run => End::Answered { status, body },
        };
        (key, line.custom_id, end)
    }

    /// Tries until there is an answer that is the line's own.
    async fn attempts(&self, part: &Part, body: &[u8], place: &Place, models: &Models) -> Result<Vec<u8>, Failure> {
        let work = self.validate(body)?;
        models.check(&work.model.name)?;
        let mut attempt = 0;
        loop {
            let taken = self.take_turn(&part.tenant, &work.rows, place).await?;
            let submission = Submission {
                model: Arc::clone(&work.model),
                tenant: part.tenant.clone(),
                lane: Lane::Low,
                task: work.task.clone(),
                source: JobSource::Stored,
                rows: work.rows.clone(),
                // New ones for each attempt: what was withdrawn of an earlier one must not be taken for this.
                fixed: None,
                deadline: Instant::now() + ATTEMPT_TIME,
                trace: otlp::root(),
            };
            let error = match self.dispatch.submit(submission).await {
                Ok(outputs) => {
                    taken.settle(&outputs);
                    let model = &work.model.name;
                    let body = vectors::body(&outputs, model.as_str(), Dialect::OpenAi, work.encoding).await?;
                    self.metrics.register_model(model);
                    let predictions = self.metrics.predictions_total.with(&(model.clone(), TaskLabel::Embed));
                    predictions.inc_by(outputs.len() as u64);
                    let kind = forebay_shared::metrics::TokenKind::Prompt;
                    self.metrics.tokens_total.with(&(model.clone(), kind)).inc_by(vectors::tokens(&outputs));
                    return Ok(body);
                }
                Err(error) => error,
            };
            // Nothing is held for the tenant while the line waits.
            drop(taken);
            match judge(&error, attempt) {
                Verdict::Final => return Err(error.into()),
                Verdict::Again { after, yield_place } => {
                    if yield_place {
                        place.give_up().await;
                    }
                    // Lines that failed together do not come back together.
                    tokio::time::sleep(after.mul_f64(rand::random_range(0.75..1.25))).await;
                    attempt += 1;
                }
            }
        }
    }

    /// The same judgement as of a request that comes alone.
    fn validate(&self, body: &[u8]) -> Result<Work, Failure> {
        let dialect = Dialect::OpenAi;
        let mut fields = parse(body, dialect.input_field(), self.limits.max_inputs)?;
        let name = fields.model.text("model")?.unwrap_or_default();
        let model = self.registry.find(name).ok_or_else(|| {
            let known = self.registry.list().iter().map(|model| model.name.to_string()).collect();
            JobError::ModelNotFound { model: name.chars().take(200).collect(), known }
        })?;
        let rows = fields.rows.take().unwrap_or(Err(RowFault::Missing));
        let rows = rows.map_err(|fault| fault.to_error(dialect.input_field()))?;
        let options = options(dialect, &fields, &model)?;
        Ok(Work { model, task: Task::Embed(options.params), encoding: options.encoding, rows })
    }

    /// Stores the answers and marks the part; of two runs of a part the first to mark it counts.
    async fn keep_answers(&self, part: &Part, answers: Answers, place: &Place) -> Result<(), BatchError> {
        let key = &marker_key(&part.batch, part.number);
        // Lines that were not run end a batch: it must not need what only its end makes free.
        let percent = if answers.completed > 0 && answers.skipped == 0 { ANSWERS_PERCENT } else { ENDS_PERCENT };
        let output = self.store(&answers.output, percent, place).await?;
        let errors = match self.store(&answers.errors, percent, place).await {
            Ok(errors) => errors,
            Err(error) => {
                if let Some(output) = output {
                    self.files.remove_object(&output.object).await?;
                }
                return Err(error.into());
            }
        };
        let marker = Marker {
            output,
            errors,
            completed: answers.completed,
            failed: answers.failed,
            skipped: answers.skipped,
            expired: answers.expired,
        };
        loop {
            match self.records.create(key, &marker).await {
                Ok(true) => break self.count_or_drop(part, &marker).await?,
                Ok(false) => match self.records.get::<Marker>(key).await {
                    // An attempt that seemed to have failed.
                    Ok(Some(found)) if found.value == marker => break self.count_or_drop(part, &marker).await?,
                    Ok(_) => {
                        for segment in [&marker.output, &marker.errors].into_iter().flatten() {
                            self.files.remove_object(&segment.object).await?;
                        }
                        break;
                    }
                    Err(error) => tracing::warn!(%error, "a marker cannot be read; trying again"),
                },
                Err(error) => tracing::warn!(%error, "a part cannot be marked as done; trying again"),
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
        Ok(())
    }

    pub(super) fn count_lines(&self, marker: &Marker) {
        let ends = [
            (LineEnd::Completed, marker.completed),
            (LineEnd::Failed, marker.failed),
            (LineEnd::Skipped, marker.skipped),
        ];
        for (end, lines) in ends {
            self.metrics.batch_lines_total.with(&(end,)).inc_by(u64::from(lines));
        }
    }

    /// Keeps trying: the answers are there, only the broker is not. While its store is full others have the place, and it is
    /// not waited for without end: a part that goes back can end where there is room, or when its batch is cancelled.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    async fn store(&self, text: &[u8], percent: u8, place: &Place) -> Result<Option<Segment>, StoreError> {
        if text.is_empty() {
            return Ok(None);
        }
        let give_up = Instant::now() + FULL_PATIENCE;
        loop {
            match self.files.put_object(text, percent).await {
                Ok(segment) => return Ok(Some(segment)),
                Err(error @ StoreError::Full(_)) => {
                    if Instant::now() >= give_up {
                        return Err(error);
                    }
                    place.give_up().await;
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "answers of a part cannot be stored; trying again");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// Whether the lines of a batch should still be run.
    pub(super) async fn should_stop(&self, part: &Part) -> Result<Option<Skip>, StoreError> {
        let found = self.records.get::<super::Batch>(&batch_key(&part.tenant, &part.batch)).await?;
        Ok(match found {
            None => Some(Skip::Cancelled),
            Some(found) if found.value.phase == Phase::Cancelling || found.value.phase.is_over() => {
                Some(Skip::Cancelled)
            }
            Some(found) if self.now() >= found.value.expires_at => Some(Skip::Expired),
            Some(_) => None,
        })
    }
}

/// The lines of a part's two files, as far as they are written.
#[derive(Debug, Default)]
struct Answers {
    output: Vec<u8>,
    errors: Vec<u8>,
    completed: u32,
    failed: u32,
    skipped: u32,
    expired: bool,
}

impl Answers {
    fn add(&mut self, key: LineKey, custom_id: &str, end: &End) {
        let into = match end {
            End::Answered { status: 200..300, .. } => {
                self.completed += 1;
                &mut self.output
            }
            End::Answered { .. } => {
                self.failed += 1;
                &mut self.errors
            }
            End::Skipped(skip) => {
                self.skipped += 1;
                self.expired |= *skip == Skip::Expired;
                &mut self.errors
            }
        };
        line::write(into, key, custom_id, end);
    }
}

/// Status and body that a request of its own would have been answered with.
async fn refusal(failure: Failure) -> (u16, Vec<u8>) {
    let response = failure.into_response(Dialect::OpenAi);
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map(|body| body.to_bytes().to_vec());
    (status, body.unwrap_or_else(|_| b"null".to_vec()))
}

/// Of a line that was sound when its file was judged.
fn custom_id(text: &str) -> String {
    line::read(text.as_bytes(), 0).map_or_else(|_| String::new(), |line| line.custom_id)
}

async fn stopped(stop: &mut Stop) -> Skip {
    loop {
        if let Some(skip) = *stop.borrow_and_update() {
            return skip;
        }
        if stop.changed().await.is_err() {
            // The keeper is gone only with the part.
            return std::future::pending().await;
        }
    }
}
