//! What the queue and the bucket carry about the parts of a batch.

use forebay_shared::codec::Wire;
use forebay_shared::ids::TenantName;
use serde::{Deserialize, Serialize};

/// A step of a batch as a whole, which today is always to split it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub batch: String,
    pub tenant: TenantName,
}

/// Consecutive lines of a batch: one message, the unit of redelivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub batch: String,
    pub tenant: TenantName,
    /// Counted from 0.
    pub number: u32,
    /// Number of the first line among all of the batch, counted from 0.
    pub first_line: u64,
    /// As they stand in the file, without line breaks.
    pub lines: Vec<String>,
}

impl Step {
    /// The same for every publish of it.
    pub fn message_id(&self) -> String {
        format!("{}:split", self.batch)
    }
}

impl Part {
    /// The same for every publish of it.
    pub fn message_id(&self) -> String {
        format!("{}:{}", self.batch, self.number)
    }
}

impl Wire for Step {}
impl Wire for Part {}

/// That a part has ended, and where its answers are. Created once, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Lines that were answered, and where the answers are.
    pub output: Option<Segment>,
    /// Lines that were not.
    pub errors: Option<Segment>,
    pub completed: u32,
    pub failed: u32,
    /// Lines that were not run, because the batch was cancelled or too late.
    pub skipped: u32,
    pub expired: bool,
}

impl Marker {
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.output.iter().chain(&self.errors)
    }
}

/// A piece of a file: one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub object: String,
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_shared::codec;

    /// Frozen: what is on the queue must be readable by the next version.
    #[test]
    fn version_1_of_the_messages_stays_readable() {
        let step = Step { batch: "batch_1".to_owned(), tenant: "t".into() };
        let wire = b"\x01\x92\xa7batch_1\xa1t";
        assert_eq!(&codec::encode(&step).unwrap()[..], wire);
        assert_eq!(codec::decode::<Step>(wire).unwrap(), step);
        let part = Part {
            batch: "b".to_owned(),
            tenant: "t".into(),
            number: 2,
            first_line: 500,
            lines: vec!["{}".to_owned()],
        };
        let wire = b"\x01\x95\xa1b\xa1t\x02\xcd\x01\xf4\x91\xa2{}";
        assert_eq!(&codec::encode(&part).unwrap()[..], wire);
        assert_eq!(codec::decode::<Part>(wire).unwrap(), part);
    }

    /// It lies in the bucket until its batch is over.
    #[test]
    fn the_text_of_a_marker_is_frozen() {
        let output = Some(Segment { object: "part-1".to_owned(), bytes: 9 });
        let marker = Marker { output, errors: None, completed: 2, failed: 1, skipped: 0, expired: false };
        let text = r#"{"output":{"object":"part-1","bytes":9},"errors":null,"completed":2,"failed":1,"skipped":0,"expired":false}"#;
        assert_eq!(serde_json::to_string(&marker).unwrap(), text);
        assert_eq!(serde_json::from_str::<Marker>(text).unwrap(), marker);
    }
}
