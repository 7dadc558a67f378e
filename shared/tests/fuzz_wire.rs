//! Whatever arrives on a subject is read or refused: no panic, and no more memory than its bytes are worth.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;

use forebay_shared::codec::{NEWEST, OLDEST, Wire, decode, encode, encode_for};
use forebay_shared::error::JobError;
use forebay_shared::ids::{BootId, JobId, TenantName};
use forebay_shared::job::{
    Ask, AskAnswer, Bundle, EmbedParams, Input, Job, Live, Output, Reply, ReplyBatch, ReplyGroup, Task, Verdict,
};
use forebay_shared::stats::Snapshot;
use forebay_shared::subjects;
use forebay_shared::trace::TraceContext;
use proptest::prelude::*;
use proptest::sample::Index;

/// Counts what the present thread asks for.
struct Counting;

thread_local! {
    static ASKED_FOR: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    let _thread_is_ending = ASKED_FOR.try_with(|sum| sum.set(sum.get().saturating_add(bytes)));
}

// SAFETY: passes every call on to the system's allocator unchanged; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and every block came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A reader may reserve by an announced length up to a constant per list (there are at most three, one in the other),
/// and otherwise only what the bytes hold.
const ONCE_BYTES: usize = 4 << 20;
const PER_BYTE: usize = 512;

fn decode_frugally<T: Wire>(bytes: &[u8]) -> Option<T> {
    ASKED_FOR.set(0);
    let decoded = decode::<T>(bytes);
    let asked_for = ASKED_FOR.get();
    assert!(asked_for <= ONCE_BYTES + PER_BYTE * bytes.len(), "{asked_for} bytes for a message of {}", bytes.len());
    decoded.ok()
}

/// Reads `bytes` as `T`; what can be read can be written, and means the same when it is read again.
fn check<T: Wire + PartialEq + Debug>(bytes: &[u8]) {
    if let Some(value) = decode_frugally::<T>(bytes) {
        assert_eq!(decode::<T>(&encode(&value).unwrap()).unwrap(), value);
    }
}

fn check_as_everything(bytes: &[u8]) {
    check::<Bundle>(bytes);
    check::<ReplyBatch>(bytes);
    check::<Live>(bytes);
    check::<Ask>(bytes);
    check::<AskAnswer>(bytes);
    if let Ok(report) = Snapshot::decode(bytes) {
        assert_eq!(Snapshot::decode(&report.encode()).unwrap(), report);
    }
}

fn messages() -> Vec<Vec<u8>> {
    let job = |input| Job {
        id: JobId::from_bytes([2; 16]),
        generation: 1,
        tenant: TenantName::default(),
        enqueued_us: 1_800_000_000_000_000,
        deadline_us: 1_800_000_030_000_000,
        trace: TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        task: Task::Embed(EmbedParams { truncate: true, normalize: None, dimensions: Some(64) }),
        input,
    };
    let jobs = vec![job(Input::Text("gate".into())), job(Input::Tokens(vec![1, 2, 300_000]))];
    let bundle = Bundle { api: BootId::from_bytes([1; 16]), number: 7, jobs };
    let reply = |outcome| Reply { id: JobId::from_bytes([2; 16]), outcome };
    let replies = vec![
        reply(Ok(Output { tokens: 3, device_us: 9, vector: 1f32.to_le_bytes().to_vec() })),
        reply(Err(JobError::InputTooLong { got: 300, max: 256 })),
    ];
    let replies = ReplyBatch { groups: vec![ReplyGroup { bundle: 7, ack: "$JS.ACK.s.c.1.2.3.4.5".into(), replies }] };
    let live = Live {
        boot: BootId::from_bytes([3; 16]),
        process: "worker-1".into(),
        model: "m".into(),
        token: "m-0123456789".into(),
        ready: true,
        wire: 2,
        max_rows: 32,
    };
    let mut all = Vec::new();
    for version in OLDEST..=NEWEST {
        all.extend([encode_for(&bundle, version), encode_for(&replies, version), encode_for(&live, version)]);
    }
    all.push(encode(&Ask { jobs: vec![JobId::from_bytes([4; 16])] }));
    all.push(encode(&AskAnswer { verdicts: vec![Verdict::Wanted, Verdict::Done] }));
    all.into_iter().map(|bytes| bytes.unwrap().to_vec()).collect()
}

/// Heads of values that announce far more than follows.
const BOMBS: [&[u8]; 8] = [
    &[0xdd, 0xff, 0xff, 0xff, 0xff], // array of 2^32 - 1
    &[0xdd, 0x00, 0x10, 0x00, 0x00],
    &[0xdc, 0xff, 0xff],
    &[0xdf, 0xff, 0xff, 0xff, 0xff],       // map
    &[0xdb, 0xff, 0xff, 0xff, 0xff],       // string
    &[0xc6, 0xff, 0xff, 0xff, 0xff],       // bytes
    &[0xc9, 0xff, 0xff, 0xff, 0xff, 0x01], // extension
    &[0x91; 4096],                         // an array in an array in an array …
];

#[derive(Debug, Clone)]
enum Mutation {
    Set(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Replace(Index, usize),
    Repeat(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        any::<Index>().prop_map(Mutation::Cut),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (any::<Index>(), 0..BOMBS.len()).prop_map(|(at, bomb)| Mutation::Replace(at, bomb)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let place = |at: &Index, bytes: &[u8]| at.index(bytes.len() + 1);
    match mutation {
        Mutation::Set(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Mutation::Set(..) => {}
        Mutation::Cut(at) => bytes.truncate(place(at, bytes)),
        Mutation::Insert(at, more) => {
            let at = place(at, bytes);
            bytes.splice(at..at, more.iter().copied());
        }
        Mutation::Replace(at, bomb) => {
            let at = place(at, bytes);
            let end = (at + 1).min(bytes.len());
            bytes.splice(at..end, BOMBS[*bomb].iter().copied());
        }
        Mutation::Repeat(from, to) => {
            let (from, to) = (place(from, bytes), place(to, bytes));
            let piece = bytes[from.min(to)..from.max(to)].to_vec();
            bytes.extend(piece);
        }
    }
}

proptest! {
    #[test]
    fn fuzz_arbitrary_bytes(version in 0..4u8, body in prop::collection::vec(any::<u8>(), 0..300)) {
        check_as_everything(&[&[version][..], &body].concat());
        check_as_everything(&body);
    }

    #[test]
    fn fuzz_damaged_messages(message in any::<Index>(), mutations in prop::collection::vec(mutation(), 1..6)) {
        let messages = messages();
        let mut bytes = messages[message.index(messages.len())].clone();
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        check_as_everything(&bytes);
    }

    #[test]
    fn fuzz_subjects(subject in "(forebay\\.jobs\\.)?[a-z0-9_.*>-]{0,20}(\\.(high|normal|low))?(\\.[0-9]{0,12})?|\\PC{0,40}") {
        if let Some((lane, rows)) = subjects::parse_jobs(&subject) {
            let token = subject.split('.').nth(2).unwrap();
            let again = subjects::jobs(&token.into(), lane, rows as usize);
            prop_assert_eq!(subjects::parse_jobs(&again), Some((lane, rows)));
        }
    }

    #[test]
    fn fuzz_traceparent(header in "[0-9a-fA-F]{0,3}-[0-9a-f]{30,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-x)?|\\PC{0,60}") {
        if let Some(context) = TraceContext::parse(&header) {
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
            prop_assert_eq!(context.child().trace_id(), context.trace_id());
        }
    }
}

#[test]
fn a_message_that_announces_more_than_it_holds_costs_little() {
    for bomb in BOMBS {
        for message in messages() {
            for at in 0..=message.len() {
                check_as_everything(&[&message[..at], bomb].concat());
            }
        }
    }
}
