use super::*;
use crate::error::JobError;
use crate::ids::{BootId, JobId, TenantName, hex};
use crate::job::{
    Bundle, Cancel, EmbedParams, Held, Input, Job, Live, Output, Reply, ReplyBatch, ReplyGroup, Task, Verdict,
};
use crate::trace::TraceContext;

fn bundle() -> Bundle {
    Bundle {
        api: BootId::from_bytes([1; 16]),
        number: 7,
        jobs: vec![Job {
            id: JobId::from_bytes([2; 16]),
            generation: 0,
            tenant: TenantName::default(),
            enqueued_us: 1_800_000_000_000_000,
            deadline_us: 1_800_000_030_000_000,
            trace: TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            task: Task::Embed(EmbedParams { truncate: true, normalize: None, dimensions: Some(64) }),
            input: Input::Text("gate".into()),
        }],
    }
}

fn replies() -> ReplyBatch {
    let reply = |outcome| Reply { id: JobId::from_bytes([2; 16]), outcome };
    ReplyBatch {
        groups: vec![ReplyGroup {
            bundle: 7,
            ack: "$JS.ACK.s.c.1.2.3.4.5".into(),
            replies: vec![
                reply(Ok(Output { tokens: 3, device_us: 0, vector: 1f32.to_le_bytes().to_vec() })),
                reply(Err(JobError::InputTooLong { got: 300, max: 256 })),
            ],
        }],
    }
}

fn live() -> Live {
    let boot = BootId::from_bytes([3; 16]);
    let (model, token) = ("m".into(), "m-0123456789".into());
    Live { boot, process: "worker-1".into(), model, token, ready: true, wire: 2, max_rows: 32 }
}

fn held() -> Held {
    let (boot, token) = (BootId::from_bytes([3; 16]), "m-0123456789".into());
    let acks = vec!["$JS.ACK.s.c.1.2.3.4.5".to_owned()];
    Held { boot, process: "worker-1".into(), token, epoch: 3, number: 8, full: true, goodbye: false, acks }
}

#[test]
fn the_bytes_of_what_a_worker_holds_are_frozen() {
    assert_eq!(hex(&encode(&held()).unwrap()), HELD_V1);
    assert_eq!(decode::<Held>(&encode(&held()).unwrap()).unwrap(), held());
}

/// These bytes are on disks and in flight during a rolling update: a change here needs a new wire version.
#[test]
fn the_bytes_of_every_version_are_frozen() {
    for (version, bundle_bytes, reply_bytes, live_bytes) in
        [(1, BUNDLE_V1, REPLIES_V1, LIVE_V1), (2, BUNDLE_V2, REPLIES_V2, LIVE_V2)]
    {
        assert_eq!(hex(&encode_for(&bundle(), version).unwrap()), bundle_bytes, "version {version}");
        assert_eq!(hex(&encode_for(&replies(), version).unwrap()), reply_bytes, "version {version}");
        assert_eq!(hex(&encode_for(&live(), version).unwrap()), live_bytes, "version {version}");
    }
}

#[test]
fn the_present_and_the_previous_version_are_read() {
    for version in [1, 2] {
        assert_eq!(decode::<Bundle>(&encode_for(&bundle(), version).unwrap()).unwrap(), bundle());
        assert_eq!(decode::<ReplyBatch>(&encode_for(&replies(), version).unwrap()).unwrap(), replies());
    }
    assert_eq!(decode::<Live>(&encode(&live()).unwrap()).unwrap(), live());
    let older = decode::<Live>(&encode_for(&live(), 1).unwrap()).unwrap();
    assert_eq!((older.wire, older.max_rows), (1, 0), "a worker of version 1 does not say");
}

#[test]
fn another_version_is_told_from_garbage() {
    assert!(matches!(decode::<Bundle>(&[9, 1, 2]), Err(CodecError::Version(9))));
    assert!(matches!(decode::<Bundle>(&[0, 1, 2]), Err(CodecError::Version(0))));
    assert!(matches!(decode::<Bundle>(&[2, 0xc1]), Err(CodecError::Malformed(_))));
    assert!(matches!(decode::<Bundle>(&[]), Err(CodecError::Empty)));
}

#[test]
fn a_kind_that_has_not_changed_is_written_as_ever() {
    assert_eq!(encode(&Ask { jobs: Vec::new() }).unwrap()[0], 1);
}

#[test]
fn the_bytes_of_a_cancel_are_frozen() {
    let jobs = vec![JobId::from_bytes([2; 16])];
    let cancel = Cancel { api: BootId::from_bytes([1; 16]), until_us: 1_800_000_030_000_000, bundles: vec![(7, jobs)] };
    let bytes = encode(&cancel).unwrap();
    assert_eq!(hex(&bytes), CANCEL_V1);
    assert_eq!(decode::<Cancel>(&bytes).unwrap(), cancel);
}

#[test]
fn the_bytes_of_a_question_and_its_answer_are_frozen() {
    let ask = Ask { jobs: vec![JobId::from_bytes([2; 16]), JobId::from_bytes([3; 16])] };
    assert_eq!(hex(&encode(&ask).unwrap()), ASK_V1);
    assert_eq!(decode::<Ask>(&encode(&ask).unwrap()).unwrap(), ask);
    let answer = AskAnswer { verdicts: vec![Verdict::Wanted, Verdict::Done, Verdict::Cancelled] };
    assert_eq!(hex(&encode(&answer).unwrap()), ASK_ANSWER_V1);
    assert_eq!(decode::<AskAnswer>(&encode(&answer).unwrap()).unwrap(), answer);
}

const ASK_V1: &str = "\
    019192c41002020202020202020202020202020202c41003030303030303030303030303030303";
const ASK_ANSWER_V1: &str = "\
    019193a657616e746564a4446f6e65a943616e63656c6c6564";
const CANCEL_V1: &str = "\
    0193c41001010101010101010101010101010101cf000665172a62438091920791c41002020202020202020202020202\
    020202";
const BUNDLE_V1: &str = "\
    0193c41001010101010101010101010101010101079196c41002020202020202020202020202020202cf000665172898\
    8000cf000665172a62438093c4104bf92f3577b34da6a3ce929d0e0e4736c40800f067aa0ba902b70181a5456d626564\
    93c3c04081a454657874a467617465";
const REPLIES_V1: &str = "\
    0191919307b5244a532e41434b2e732e632e312e322e332e342e359292c4100202020202020202020202020202020281\
    a24f6b9203c4040000803f92c4100202020202020202020202020202020281a345727293ae696e7075745f746f6f5f6c\
    6f6e67cd012ccd0100";
const LIVE_V1: &str = "\
    0195c41003030303030303030303030303030303a8776f726b65722d31a16dac6d2d30313233343536373839c3";
const BUNDLE_V2: &str = "\
    0293c41001010101010101010101010101010101079198c4100202020202020202020202020202020200a76465666175\
    6c74cf0006651728988000cf000665172a62438093c4104bf92f3577b34da6a3ce929d0e0e4736c40800f067aa0ba902\
    b70181a5456d62656493c3c04081a454657874a467617465";
const REPLIES_V2: &str = "\
    0291919307b5244a532e41434b2e732e632e312e322e332e342e359292c4100202020202020202020202020202020281\
    a24f6b930300c4040000803f92c4100202020202020202020202020202020281a345727293ae696e7075745f746f6f5f\
    6c6f6e67cd012ccd0100";
const LIVE_V2: &str = "\
    0297c41003030303030303030303030303030303a8776f726b65722d31a16dac6d2d30313233343536373839c30220";
const HELD_V1: &str = "\
    0198c41003030303030303030303030303030303a8776f726b65722d31ac6d2d303132333435363738390308c3c291b5\
    244a532e41434b2e732e632e312e322e332e342e35";
