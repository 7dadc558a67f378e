use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{Request as HttpRequest, StatusCode};
use futures::StreamExt;

use super::*;
use crate::dialect::Dialect;

const MAX_FILE_BYTES: u64 = 1024 * 1024;
const FILE: &str = "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n";

/// A body without a length that counts how much of it was taken.
struct Sent {
    body: Body,
    taken: Arc<AtomicU64>,
}

/// `first`, and then `again` for ever, in frames as large as the HTTP parser makes them.
fn endless(first: &str, again: &str) -> Sent {
    let again = Bytes::from(again.repeat(400_000 / again.len()));
    sent(futures::stream::iter([Bytes::from(first.to_owned())]).chain(futures::stream::repeat(again)))
}

fn sent(frames: impl Stream<Item = Bytes> + Send + 'static) -> Sent {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&taken);
    let frames = frames.map(move |frame| {
        counted.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok::<_, axum::Error>(frame)
    });
    Sent { body: Body::from_stream(frames), taken }
}

async fn open(body: Body, length: Option<u64>) -> Result<Form, Failure> {
    let request = HttpRequest::post("/v1/files").header("content-type", "multipart/form-data; boundary=x");
    let request = length.into_iter().fold(request, |request, length| request.header(CONTENT_LENGTH, length));
    Form::open(request.body(()).unwrap().into_parts().0, body, MAX_FILE_BYTES).await
}

/// Everything in a form: of each field its name, and its bytes.
async fn read(body: Body) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut form = open(body, None).await?;
    let mut fields = Vec::new();
    while let Some(mut part) = form.next().await? {
        let name = part.name().to_owned();
        let mut bytes = Vec::new();
        if name == "file" {
            while let Some(piece) = part.piece().await? {
                bytes.extend_from_slice(&piece);
            }
        } else {
            bytes = part.text("field").await?.into_bytes();
        }
        fields.push((name, bytes));
    }
    Ok(fields)
}

/// The status and the body with which a form is refused; never after more than the frame that was one too many.
async fn refusal(sent: Sent) -> (StatusCode, String) {
    let read = tokio::time::timeout(Duration::from_secs(20), read(sent.body)).await;
    let failure = read.expect("an endless form is refused").unwrap_err();
    let taken = sent.taken.load(Ordering::Relaxed);
    assert!(taken <= MAX_FILE_BYTES + ROOM_BYTES + 400_000, "{taken} bytes were taken");
    let response = failure.into_response(Dialect::OpenAi);
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_form_comes_out_as_it_went_in_however_it_was_cut() {
    let file: String = (0..5_000).map(|line| format!("{{\"line\":{line}}}\r\n--\r")).collect();
    let field = "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n";
    let form = Bytes::from(format!("{field}{FILE}{file}\r\n{field}--x--\r\n"));
    for frame_bytes in [1, 7, 16 * 1024, form.len()] {
        let mut rest = form.clone();
        let frames = std::iter::from_fn(move || {
            let frame = rest.split_to(frame_bytes.min(rest.len()));
            (!frame.is_empty()).then_some(frame)
        });
        let fields = read(sent(futures::stream::iter(frames)).body).await.unwrap();
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["purpose", "file", "purpose"]);
        assert!(fields[1].1 == file.as_bytes(), "cut after every {frame_bytes} bytes");
    }
}

#[tokio::test]
async fn a_file_as_large_as_it_may_be_is_taken() {
    let file = "x".repeat(usize::try_from(MAX_FILE_BYTES).unwrap());
    let form = format!("{FILE}{file}\r\n--x--\r\n");
    let fields = read(sent(futures::stream::iter([Bytes::from(form)])).body).await.unwrap();
    assert_eq!(fields[0].1.len(), file.len());
}

#[tokio::test]
async fn what_comes_before_the_first_boundary_is_bounded() {
    let (status, body) = refusal(endless("", "no boundary in here\r\n")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("may have 65536 bytes beside its file"), "{body}");
}

#[tokio::test]
async fn the_headers_of_a_field_are_bounded() {
    for (first, again) in [("--x\r\n", "a: b\r\n"), ("--x\r\ncontent-disposition: form-data; name=\"", "x")] {
        let (status, body) = refusal(endless(first, again)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains("may have 65536 bytes beside its file"), "{body}");
    }
}

#[tokio::test]
async fn fields_beside_the_file_are_bounded_in_their_number() {
    let field = "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n";
    let (status, body) = refusal(endless(&format!("{FILE}line\r\n"), field)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("may have 65536 bytes beside its file"), "{body}");
}

#[tokio::test]
async fn a_file_without_an_announced_length_is_bounded() {
    let (status, body) = refusal(endless(FILE, "{}\n")).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(body.contains("larger than 1048576 bytes"), "{body}");
}

#[tokio::test]
async fn a_form_that_is_announced_as_too_large_is_refused_unread() {
    let sent = endless(FILE, "{}\n");
    let refused = open(sent.body, Some(MAX_FILE_BYTES + ROOM_BYTES + 1)).await;
    assert_eq!(refused.err(), Some(too_large(MAX_FILE_BYTES)));
    assert_eq!(sent.taken.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_form_that_ends_early_is_refused() {
    for form in ["", "--x", "--x\r\n", FILE, "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbat"] {
        let failure = read(sent(futures::stream::iter([Bytes::from(form)])).body).await.unwrap_err();
        assert_eq!(failure, Failure::invalid("file", "the body is not complete multipart/form-data"), "{form}");
    }
}

/// A file of which `bytes` come after every `pause`, `times` times.
fn slow(pause: Duration, bytes: usize, times: usize) -> Sent {
    let file = futures::stream::repeat(Bytes::from(vec![b'x'; bytes])).take(times).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        piece
    });
    let end = futures::stream::iter([Bytes::from("\r\n--x--\r\n")]);
    sent(futures::stream::iter([Bytes::from(FILE)]).chain(file).chain(end))
}

/// The patience of these tests.
const SECOND: Duration = Duration::from_secs(1);

async fn open_slow(sent: Sent) -> Form {
    let mut form = open(sent.body, None).await.unwrap();
    form.watch.pace = Pace::new(SECOND);
    form
}

#[tokio::test]
async fn a_file_that_comes_byte_by_byte_is_given_up() {
    let begun = Instant::now();
    let mut form = open_slow(slow(SECOND * 7 / 10, 1, 1_000)).await;
    let mut part = form.next().await.unwrap().unwrap();
    let failure = loop {
        if let Err(failure) = part.piece().await {
            break failure;
        }
    };
    assert_eq!(failure, Failure::BodyTimeout);
    assert!(begun.elapsed() <= 5 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_file_that_comes_slowly_but_steadily_is_taken_and_time_in_which_it_is_stored_is_not_the_clients() {
    let mut form = open_slow(slow(SECOND / 2, 2_000, 5)).await;
    let mut part = form.next().await.unwrap().unwrap();
    let mut bytes = 0;
    while let Some(piece) = part.piece().await.unwrap() {
        bytes += piece.len();
        if bytes == 4_000 {
            tokio::time::sleep(2 * SECOND).await;
        }
    }
    assert_eq!(bytes, 2_000 * 5);
}
