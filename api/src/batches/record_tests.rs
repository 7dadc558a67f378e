use proptest::prelude::*;

use super::record::{Batch, Event, InputError, Phase, Refused};

fn batch() -> Batch {
    Batch::new("batch_1".to_owned(), "t".into(), "/v1/embeddings".to_owned(), "file-1".to_owned(), 100)
}

fn split() -> Event {
    Event::Split { parts: 3, lines: 1_200 }
}

fn rejected() -> Event {
    let error = InputError { code: "x".to_owned(), message: "y".to_owned(), param: None, line: Some(1) };
    Event::Rejected { errors: vec![error] }
}

fn finished(expired: bool) -> Event {
    Event::Finished {
        completed: 1_000,
        failed: 200,
        output_file_id: Some("o".to_owned()),
        error_file_id: None,
        expired,
    }
}

fn after(events: &[Event]) -> Batch {
    let mut batch = batch();
    for (event, now) in events.iter().zip(101..) {
        batch.apply(event, now).unwrap();
    }
    batch
}

/// It lies in the bucket for as long as files are kept: fields may be added, with a default.
#[test]
fn the_text_of_a_batch_is_frozen() {
    let mut completed = after(&[split(), Event::PartsDone, finished(false)]);
    completed.metadata = Some([("run".to_owned(), "7".to_owned())].into());
    completed.models = Some(vec!["m".into()]);
    let rejected = after(&[rejected()]);
    for (batch, text) in [(completed, COMPLETED), (rejected, REJECTED)] {
        assert_eq!(serde_json::to_string(&batch).unwrap(), text);
        assert_eq!(serde_json::from_str::<Batch>(text).unwrap(), batch);
    }
    let phases = [
        (Phase::Validating, "validating"),
        (Phase::InProgress, "in_progress"),
        (Phase::Finalizing, "finalizing"),
        (Phase::Expired, "expired"),
        (Phase::Cancelling, "cancelling"),
        (Phase::Cancelled, "cancelled"),
    ];
    for (phase, name) in phases {
        assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{name}\""));
    }
}

const COMPLETED: &str = r#"{"id":"batch_1","tenant":"t","endpoint":"/v1/embeddings","input_file_id":"file-1","metadata":{"run":"7"},"models":["m"],"output_keep_seconds":null,"phase":"completed","parts":3,"counts":{"total":1200,"completed":1000,"failed":200},"errors":[],"output_file_id":"o","error_file_id":null,"created_at":100,"expires_at":86500,"in_progress_at":101,"finalizing_at":102,"completed_at":103,"failed_at":null,"expired_at":null,"cancelling_at":null,"cancelled_at":null}"#;
const REJECTED: &str = r#"{"id":"batch_1","tenant":"t","endpoint":"/v1/embeddings","input_file_id":"file-1","metadata":null,"models":null,"output_keep_seconds":null,"phase":"failed","parts":0,"counts":{"total":0,"completed":0,"failed":0},"errors":[{"code":"x","message":"y","param":null,"line":1}],"output_file_id":null,"error_file_id":null,"created_at":100,"expires_at":86500,"in_progress_at":null,"finalizing_at":null,"completed_at":null,"failed_at":101,"expired_at":null,"cancelling_at":null,"cancelled_at":null}"#;

#[test]
fn a_sound_batch_is_completed_step_by_step() {
    let batch = after(&[split(), Event::PartsDone, finished(false)]);
    assert_eq!(batch.phase, Phase::Completed);
    assert_eq!((batch.in_progress_at, batch.finalizing_at, batch.completed_at), (Some(101), Some(102), Some(103)));
    assert_eq!((batch.counts.total, batch.counts.completed, batch.counts.failed), (1_200, 1_000, 200));
}

#[test]
fn a_batch_whose_window_closes_expires_with_what_is_there() {
    let batch = after(&[split(), Event::PartsDone, finished(true)]);
    assert_eq!((batch.phase, batch.expired_at), (Phase::Expired, Some(103)));
    assert_eq!(batch.output_file_id.as_deref(), Some("o"));
}

#[test]
fn a_cancelled_batch_keeps_what_has_run() {
    let batch = after(&[split(), Event::CancelAsked, Event::PartsDone, finished(true)]);
    assert_eq!(batch.phase, Phase::Cancelled);
    assert_eq!(batch.output_file_id.as_deref(), Some("o"));
}

#[test]
fn a_batch_cancelled_before_it_was_split_runs_nothing() {
    assert_eq!(after(&[Event::CancelAsked, split()]).phase, Phase::Cancelled);
    assert_eq!(after(&[Event::CancelAsked, rejected()]).phase, Phase::Cancelled);
}

#[test]
fn a_batch_that_is_being_finished_is_not_cancelled_any_more() {
    let mut batch = after(&[split(), Event::PartsDone]);
    assert_eq!(batch.apply(&Event::CancelAsked, 200), Err(Refused(Phase::Finalizing)));
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(split()),
        Just(rejected()),
        Just(Event::CancelAsked),
        Just(Event::PartsDone),
        any::<bool>().prop_map(finished),
    ]
}

fn stamps(batch: &Batch) -> [Option<u64>; 7] {
    [
        batch.in_progress_at,
        batch.finalizing_at,
        batch.completed_at,
        batch.failed_at,
        batch.expired_at,
        batch.cancelling_at,
        batch.cancelled_at,
    ]
}

proptest! {
    /// Whatever is tried, by whomever and how often.
    #[test]
    fn a_batch_that_is_over_stays_as_it_is_and_no_stamp_is_set_twice(events in prop::collection::vec(any_event(), 0..24)) {
        let mut batch = batch();
        for (event, now) in events.iter().zip(101..) {
            let before = batch.clone();
            let changed = batch.apply(event, now);
            if before.phase.is_over() || changed != Ok(true) {
                prop_assert_eq!(&before, &batch);
            }
            if changed.is_ok() && !before.phase.is_over() {
                // A step that is repeated changes nothing, unless it is a refusal.
                let once = batch.clone();
                prop_assert_ne!(batch.apply(event, now + 1_000), Ok(true));
                prop_assert_eq!(&once, &batch);
            }
            for (old, new) in stamps(&before).into_iter().zip(stamps(&batch)) {
                prop_assert!(old.is_none() || old == new);
            }
            let ends = [batch.completed_at, batch.failed_at, batch.expired_at, batch.cancelled_at];
            prop_assert_eq!(ends.iter().flatten().count(), usize::from(batch.phase.is_over()));
            let files = batch.output_file_id.is_some() || batch.error_file_id.is_some();
            prop_assert!(!files || (batch.phase.is_over() && batch.parts > 0));
        }
    }
}
