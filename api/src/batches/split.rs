//! From a file to parts on the queue. Repeatable: the file does not change, so neither do its parts.
//!
//! The file is read twice, line by line: once to judge all of it before anything runs, once to publish. Between the two
//! the record says how many parts there are, so that whoever ends the last one knows that it is.

use forebay_shared::codec;
use forebay_shared::ids::TenantName;
use forebay_shared::subjects;
use rustc_hash::FxHashSet;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::cut::{Cutter, MAX_LINE_BYTES, MAX_LINES};
use super::line;
use super::part::{Part, Step};
use super::record::{Batch, Event, InputError, Phase};
use super::records::StoreError;
use super::{BatchError, Batches, markers_of};
use crate::files::{Content, FileRecord};

/// Faults that are told about one file.
const MAX_ERRORS: usize = 50;
const PUBLISH_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// The lines of a file, one at a time.
struct Lines {
    content: BufReader<Content>,
    buffer: Vec<u8>,
    /// Of the line read last, counted from 1.
    number: u64,
}

enum Next<'a> {
    Line(&'a [u8]),
    TooLong,
    End,
}

impl Lines {
    fn new(content: Content) -> Self {
        Self { content: BufReader::with_capacity(64 * 1024, content), buffer: Vec::new(), number: 0 }
    }

    /// The next line that is not blank.
    async fn next(&mut self) -> std::io::Result<Next<'_>> {
        loop {
            self.buffer.clear();
            let mut bounded = (&mut self.content).take(MAX_LINE_BYTES as u64 + 2);
            if bounded.read_until(b'\n', &mut self.buffer).await? == 0 {
                return Ok(Next::End);
            }
            self.number += 1;
            if self.buffer.trim_ascii().len() > MAX_LINE_BYTES {
                return Ok(Next::TooLong);
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(Next::Line(self.buffer.trim_ascii()))
    }
}

/// What a first reading finds.
struct Sound {
    parts: u32,
    lines: u64,
}

impl Batches {
    /// Judges the input of a batch and puts its parts on the queue.
    pub(super) async fn split(&self, step: &Step) -> Result<(), BatchError> {
        let Some(found) = self.find(&step.tenant, &step.batch).await? else { return Ok(()) };
        let batch = found.value;
        if batch.phase.is_over() {
            return Ok(());
        }
        let ended = self.ended(&batch.id).await?;
        if batch.parts > 0 && ended.len() >= batch.parts as usize {
            return self.finish(&batch.tenant, &batch.id).await;
        }
        let Some(input) = self.files.find(&batch.tenant, &batch.input_file_id).await? else {
            return self.reject(&batch, vec![input_gone()]).await;
        };
        if batch.parts == 0 {
            let event = match self.judge(&input).await? {
                Ok(Sound { parts, lines }) => Event::Split { parts, lines },
                Err(errors) => Event::Rejected { errors },
            };
            let batch = self.apply(&batch.tenant, &batch.id, &event).await?;
            if !matches!(batch.phase, Phase::InProgress | Phase::Cancelling) {
                return Ok(());
            }
        }
        self.publish_parts(&batch, &input, &ended).await
    }

    /// Parts that have a marker.
    async fn ended(&self, id: &str) -> Result<FxHashSet<u32>, StoreError> {
        let keys = self.records.keys(&markers_of(id)).await?;
        Ok(keys.iter().filter_map(|key| key.rsplit('.').next()?.parse().ok()).collect())
    }

    async fn reject(&self, batch: &Batch, errors: Vec<InputError>) -> Result<(), BatchError> {
        self.end_rejected(&batch.tenant, &batch.id, errors).await
    }

    /// Ends a batch without files; parts that had ended leave nothing.
    async fn end_rejected(&self, tenant: &TenantName, id: &str, errors: Vec<InputError>) -> Result<(), BatchError> {
        match self.apply(tenant, id, &Event::Rejected { errors }).await {
            Ok(batch) => Ok(self.sweep(&batch).await?),
            Err(BatchError::Refused(_) | BatchError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The first reading: every line is judged, and the parts are counted.
    async fn judge(&self, input: &FileRecord) -> Result<Result<Sound, Vec<InputError>>, StoreError> {
        let mut lines = Lines::new(self.files.open(input).await?);
        let (mut seen, mut cutter) = (FxHashSet::default(), Cutter::default());
        let (mut parts, mut errors) = (0, Vec::new());
        while errors.len() < MAX_ERRORS {
            let number = lines.number + 1;
            let text = match lines.next().await.map_err(StoreError::unavailable)? {
                Next::Line(text) => text,
                Next::TooLong => {
                    let message =
                        format!("This line is longer than {MAX_LINE_BYTES} bytes; send fewer inputs per line.");
                    errors.push(fault("line_too_long", message, Some(number)));
                    break;
                }
                Next::End => break,
            };
            let (bytes, read) = (text.len(), line::read(text, number));
            let number = lines.number;
            match read {
                Ok(line) => {
                    let digest: [u8; 32] = Sha256::digest(&line.custom_id).into();
                    if !seen.insert(u128::from_le_bytes(std::array::from_fn(|i| digest[i]))) {
                        let message = "The custom_id of this request is that of an earlier one.".to_owned();
                        let mut duplicate = fault("duplicate_custom_id", message, Some(number));
                        duplicate.param = Some("custom_id".to_owned());
                        errors.push(duplicate);
                    }
                    parts += u32::from(cutter.begins(bytes, line.rows));
                }
                Err(mut error) => {
                    error.line = Some(number);
                    errors.push(error);
                }
            }
            if seen.len() as u64 > MAX_LINES {
                let message = format!("A batch may have at most {MAX_LINES} requests; send several.");
                errors.push(fault("too_many_tasks", message, None));
                break;
            }
        }
        if parts == 0 && errors.is_empty() {
            errors.push(fault("empty_file", "The input file has no requests.".to_owned(), None));
        }
        Ok(if errors.is_empty() { Ok(Sound { parts, lines: seen.len() as u64 }) } else { Err(errors) })
    }

    /// The second reading. Parts that have `ended` are not published again.
    async fn publish_parts(&self, batch: &Batch, input: &FileRecord, ended: &FxHashSet<u32>) -> Result<(), BatchError> {
        let mut lines = Lines::new(self.files.open(input).await?);
        let mut cutter = Cutter::default();
        let empty = |number, first_line| Part {
            batch: batch.id.clone(),
            tenant: batch.tenant.clone(),
            number,
            first_line,
            lines: Vec::new(),
        };
        let mut part = empty(0, 0);
        loop {
            let text = match lines.next().await.map_err(StoreError::unavailable)? {
                Next::Line(text) => text,
                Next::TooLong | Next::End => break,
            };
            let rows = line::read(text, 0).map_or(1, |line| line.rows);
            if cutter.begins(text.len(), rows) && !part.lines.is_empty() {
                let next = empty(part.number + 1, part.first_line + part.lines.len() as u64);
                if !ended.contains(&part.number) {
                    self.publish_part(&part).await?;
                }
                part = next;
            }
            // It was JSON when it was judged, so it is UTF-8.
            part.lines.push(String::from_utf8_lossy(text).into_owned());
        }
        if ended.contains(&part.number) { Ok(()) } else { self.publish_part(&part).await }
    }

    /// Waits while the queue is full: parts that end make room.
    async fn publish_part(&self, part: &Part) -> Result<(), BatchError> {
        let payload = codec::encode(part).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        let (subject, id) = (subjects::batch_part(&part.tenant), part.message_id());
        while let Err(error) = self.publish(subject.clone(), id.clone(), payload.clone()).await {
            tracing::warn!(batch = part.batch, part = part.number, %error, "the queue does not take a part; trying again");
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
        Ok(())
    }

    /// Gives up on a batch whose step failed again and again.
    pub(super) async fn give_up(&self, tenant: &TenantName, id: &str) -> Result<(), BatchError> {
        let message = "The input file could not be processed.".to_owned();
        self.end_rejected(tenant, id, vec![fault("internal_error", message, None)]).await
    }
}

fn fault(code: &str, message: String, line: Option<u64>) -> InputError {
    InputError { code: code.to_owned(), message, param: None, line }
}

fn input_gone() -> InputError {
    fault("file_not_found", "The input file does not exist any more.".to_owned(), None)
}
