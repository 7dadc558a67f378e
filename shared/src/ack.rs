//! The acknowledgement subject of a delivery, which also tells what was delivered, how often and by whom.
//!
//! `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, with `<domain>.<account hash>.`
//! after `ACK.` on newer servers, and a random token at the end there.

/// What can be read off an acknowledgement subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckSubject<'a> {
    pub stream: &'a str,
    pub consumer: &'a str,
    /// 1 for the first delivery of the message.
    pub delivered: u64,
    /// Names the message within its stream: the broker matches acknowledgements by this alone.
    pub stream_seq: u64,
    /// Names this delivery within its consumer: a second delivery of the same message has another.
    pub consumer_seq: u64,
    /// Messages of this consumer that still wait in the stream.
    pub pending: u64,
}

/// When the broker stored the delivered message, in microseconds since the Unix epoch of its clock.
pub fn stored_us(subject: &str) -> Option<u64> {
    fields(subject)?[5].parse::<u64>().ok().map(|nanos| nanos / 1_000)
}

/// The seven fields that both forms have.
fn fields(subject: &str) -> Option<[&str; 7]> {
    let parts: Vec<&str> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
    match parts.len() {
        7 => parts.try_into().ok(),
        9.. => parts[2..9].try_into().ok(),
        _ => None,
    }
}

impl<'a> AckSubject<'a> {
    pub fn parse(subject: &'a str) -> Option<Self> {
        let fields = fields(subject)?;
        Some(Self {
            stream: fields[0],
            consumer: fields[1],
            delivered: fields[2].parse().ok()?,
            stream_seq: fields[3].parse().ok()?,
            consumer_seq: fields[4].parse().ok()?,
            pending: fields[6].parse().ok()?,
        })
    }

    /// A subject on which this delivery can be answered by somebody who has not seen it: time and pending count are not
    /// looked at by the broker.
    pub fn rebuilt(&self) -> String {
        let Self { stream, consumer, delivered, stream_seq, consumer_seq, pending } = self;
        format!("$JS.ACK.{stream}.{consumer}.{delivered}.{stream_seq}.{consumer_seq}.0.{pending}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fuzz_ack_subjects(subject in "(\\$JS\\.ACK\\.)?([a-zA-Z0-9_$-]{0,3}\\.){0,12}[0-9]{0,25}|\\PC{0,60}") {
            if let Some(ack) = AckSubject::parse(&subject) {
                let again = ack.rebuilt();
                prop_assert_eq!(AckSubject::parse(&again), Some(ack));
            }
        }
    }

    const EXPECTED: AckSubject<'_> =
        AckSubject { stream: "S", consumer: "normal", delivered: 2, stream_seq: 10, consumer_seq: 11, pending: 7 };

    #[test]
    fn both_forms_are_read() {
        assert_eq!(AckSubject::parse("$JS.ACK.S.normal.2.10.11.1700000000.7"), Some(EXPECTED));
        assert_eq!(AckSubject::parse("$JS.ACK.hub.ACC.S.normal.2.10.11.1700000000.7.rnd"), Some(EXPECTED));
        assert_eq!(AckSubject::parse(&EXPECTED.rebuilt()), Some(EXPECTED));
        assert_eq!(stored_us("$JS.ACK.S.normal.2.10.11.1700000000123456789.7"), Some(1_700_000_000_123_456));
        assert_eq!(stored_us("$JS.ACK.hub.ACC.S.normal.2.10.11.5000.7.rnd"), Some(5));
    }

    #[test]
    fn another_subject_is_not_a_delivery() {
        assert_eq!(AckSubject::parse("_INBOX.x.y"), None);
        assert_eq!(AckSubject::parse("$JS.ACK.S.normal.x.10.11.1.7"), None);
    }
}
