use super::*;

fn record() -> Record {
    let id = JobId::from_bytes([7; 16]);
    Record::new(id, TenantName::default(), "m".into(), "m-0123456789".into(), "embed", 1, 1_000, 9_000)
}

fn running() -> Record {
    record().apply(Event::Start { generation: 0 }, 2_000).unwrap()
}

fn done(text: &str) -> Event {
    Event::Finish { generation: 0, ending: Ending::Done(ResultRef::Inline(text.to_owned())) }
}

#[test]
fn the_first_end_wins() {
    let ended = running().apply(done("first"), 3_000).unwrap();
    assert_eq!((ended.state, ended.ended_ms), (State::Done, Some(3_000)));
    for late in [done("second"), Event::Cancel, Event::Expire, Event::Start { generation: 0 }] {
        assert_eq!(ended.apply(late, 4_000), Err(Refused::Ended(State::Done)));
    }
    let cancelled = running().apply(Event::Cancel, 3_000).unwrap();
    assert_eq!(cancelled.apply(done("late"), 4_000), Err(Refused::Ended(State::Cancelled)));
}

#[test]
fn a_dead_job_begins_anew_and_its_old_attempts_say_nothing_any_more() {
    let dead = Ending::Dead(JobError::DeadLettered { job: "j".to_owned(), starts: 2 });
    let dead = running().apply(Event::Finish { generation: 0, ending: dead }, 3_000).unwrap();
    let anew = dead.apply(Event::Replay { deadline_ms: 20_000 }, 4_000).unwrap();
    assert_eq!((anew.generation, anew.state, anew.attempts, anew.error.clone()), (1, State::Queued, 0, None));
    assert_eq!(anew.apply(done("of before"), 5_000), Err(Refused::OtherGeneration));
    assert!(anew.apply(Event::Start { generation: 1 }, 5_000).is_ok());
}

#[test]
fn what_is_done_is_not_begun_anew() {
    let ended = running().apply(done("x"), 3_000).unwrap();
    assert_eq!(ended.apply(Event::Replay { deadline_ms: 1 }, 4_000), Err(Refused::NotNow(State::Done)));
}

#[test]
fn a_call_is_settled_once_and_only_after_the_end() {
    let called = |state| Event::Called { generation: 0, state, failure: None };
    let url = "https://example.org".to_owned();
    let webhook = Some(Webhook::new(url, None));
    let running = Record { webhook, ..running() };
    assert!(running.apply(called(WebhookState::Delivered), 1).is_err());
    let ended = running.apply(done("x"), 3_000).unwrap();
    let delivered = ended.apply(called(WebhookState::Delivered), 4_000).unwrap();
    assert_eq!(delivered.webhook.as_ref().unwrap().state, WebhookState::Delivered);
    assert!(delivered.apply(called(WebhookState::Failed), 5_000).is_err());
}

/// It lies in the bucket for as long as results are kept: fields may be added, with a default.
#[test]
fn the_text_of_a_record_is_frozen() {
    let failure = Some(CallFailure { at_ms: 4_000, tries: 5, why: "status 500".to_owned() });
    let webhook = Webhook::new("https://h".to_owned(), Some("whsec_abc".to_owned()));
    let webhook = Some(Webhook { state: WebhookState::Failed, round: 1, failure, ..webhook });
    let metadata = [("run".to_owned(), "7".to_owned())].into();
    let ended = running().apply(done("{}"), 3_000).unwrap();
    let ended = Record { webhook, metadata, bytes: 9, express: true, ..ended };
    assert_eq!(serde_json::to_string(&ended).unwrap(), DONE);
    assert_eq!(serde_json::from_str::<Record>(DONE).unwrap(), ended);
    let result = Some(ResultRef::Object { name: "a/1".to_owned(), bytes: 7 });
    // As it was written before these fields were there.
    let earlier = Record { bytes: 0, express: false, webhook: None, metadata: BTreeMap::new(), ..ended };
    let large = Record { result, ..earlier };
    assert_eq!(serde_json::to_string(&large).unwrap(), LARGE);
    let error = Ending::Failed(JobError::InputTooLong { got: 300, max: 256 });
    let failed = running().apply(Event::Finish { generation: 0, ending: error }, 3_000).unwrap();
    assert_eq!(serde_json::to_string(&failed).unwrap(), FAILED);
    for text in [LARGE, FAILED] {
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Record>(text).unwrap()).unwrap(), text);
    }
}

const DONE: &str = r#"{"v":1,"id":"07070707070707070707070707070707","generation":0,"tenant":"default","model":"m","token":"m-0123456789","task":"embed","rows":1,"bytes":9,"express":true,"state":"done","attempts":1,"created_ms":1000,"started_ms":2000,"ended_ms":3000,"deadline_ms":9000,"result":{"inline":"{}"},"error":null,"webhook":{"url":"https://h","secret":"whsec_abc","state":"failed","round":1,"failure":{"at_ms":4000,"tries":5,"why":"status 500"}},"metadata":{"run":"7"}}"#;
const LARGE: &str = r#"{"v":1,"id":"07070707070707070707070707070707","generation":0,"tenant":"default","model":"m","token":"m-0123456789","task":"embed","rows":1,"state":"done","attempts":1,"created_ms":1000,"started_ms":2000,"ended_ms":3000,"deadline_ms":9000,"result":{"object":{"name":"a/1","bytes":7}},"error":null,"webhook":null}"#;
const FAILED: &str = r#"{"v":1,"id":"07070707070707070707070707070707","generation":0,"tenant":"default","model":"m","token":"m-0123456789","task":"embed","rows":1,"state":"failed","attempts":1,"created_ms":1000,"started_ms":2000,"ended_ms":3000,"deadline_ms":9000,"result":null,"error":{"code":"input_too_long","got":300,"max":256},"webhook":null}"#;

#[test]
fn a_call_that_was_given_up_tells_why_and_can_be_made_again() {
    let webhook = Some(Webhook::new("https://example.org".to_owned(), None));
    let running = Record { webhook, ..running() };
    assert!(running.apply(Event::CallAgain, 1).is_err(), "it has not ended");
    let ended = running.apply(done("x"), 3_000).unwrap();
    assert!(ended.apply(Event::CallAgain, 1).is_err(), "it is being made");
    let failure = Some(CallFailure { at_ms: 4_000, tries: 5, why: "status 500".to_owned() });
    let event = Event::Called { generation: 0, state: WebhookState::Failed, failure: failure.clone() };
    let failed = ended.apply(event, 4_000).unwrap();
    assert_eq!(failed.webhook.as_ref().unwrap().failure, failure);
    let again = failed.apply(Event::CallAgain, 5_000).unwrap().webhook.unwrap();
    assert_eq!((again.state, again.round), (WebhookState::Pending, 1));
    let none = Record { webhook: None, ..ended };
    assert!(none.apply(Event::CallAgain, 5_000).is_err(), "nobody is to be called");
}

#[test]
fn a_record_survives_json_and_a_newer_field_is_ignored() {
    let text = serde_json::to_string(&running()).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), running());
    let newer = text.replacen('{', "{\"later\":1,", 1);
    assert_eq!(serde_json::from_str::<Record>(&newer).unwrap(), running());
}

#[test]
fn a_webhook_does_not_print_its_secret() {
    let webhook = Webhook::new("https://h/?token=abc".to_owned(), Some("whsec_abc".to_owned()));
    assert!(!format!("{webhook:?}").contains("abc"));
}

mod any_order_of_events {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let generation = 0u32..3;
        prop_oneof![
            generation.clone().prop_map(|generation| Event::Start { generation }),
            (generation.clone(), 0u8..3).prop_map(|(generation, kind)| {
                let ending = match kind {
                    0 => Ending::Done(ResultRef::Inline("{}".to_owned())),
                    1 => Ending::Failed(JobError::Internal),
                    _ => Ending::Dead(JobError::DeadLettered { job: String::new(), starts: 2 }),
                };
                Event::Finish { generation, ending }
            }),
            Just(Event::Cancel),
            Just(Event::Expire),
            Just(Event::Replay { deadline_ms: 50_000 }),
            generation.prop_map(|generation| Event::Called {
                generation,
                state: WebhookState::Delivered,
                failure: None
            }),
            Just(Event::CallAgain),
        ]
    }

    proptest! {
        #[test]
        fn keeps_the_invariants(events in proptest::collection::vec(event(), 0..40)) {
            let url = "https://example.org".to_owned();
            let webhook = Some(Webhook::new(url, None));
            let mut record = Record { webhook, ..record() };
            for (at, event) in events.into_iter().enumerate() {
                let Ok(next) = record.apply(event.clone(), 1_000 + at as u64) else { continue };
                prop_assert!(next.generation >= record.generation);
                if next.generation == record.generation {
                    prop_assert!(next.attempts >= record.attempts);
                    if record.state.is_terminal() {
                        let only_its_call = Record { webhook: record.webhook.clone(), ..next.clone() };
                        prop_assert_eq!(&only_its_call, &record, "changed after its end by {:?}", event);
                    }
                } else {
                    prop_assert!(matches!(record.state, State::Dead | State::Failed));
                    prop_assert_eq!((next.state, next.attempts), (State::Queued, 0));
                }
                prop_assert_eq!(next.state.is_terminal(), next.ended_ms.is_some());
                prop_assert_eq!(next.state == State::Done, next.result.is_some());
                prop_assert!(next.state != State::Running || next.attempts > 0);
                record = next;
            }
        }
    }
}
