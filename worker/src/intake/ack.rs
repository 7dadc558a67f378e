//! The acknowledgement subject of a delivery, which also tells how often and from where it was delivered.
//!
//! `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, with `<domain>.<account hash>.`
//! after `ACK.` on newer servers, and a random token at the end there.

/// What a worker reads off an acknowledgement subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeliveryInfo {
    /// 1 for the first delivery.
    pub delivered: u64,
    /// Names this delivery within its consumer: a second delivery of the same message has another.
    pub consumer_seq: u64,
    /// Messages of this consumer that still wait in the stream.
    pub pending: u64,
}

impl DeliveryInfo {
    pub(crate) fn parse(subject: &str) -> Option<Self> {
        let parts: Vec<&str> = subject.strip_prefix("$JS.ACK.")?.split('.').collect();
        let fields = match parts.len() {
            7 => &parts[2..],
            9.. => &parts[4..],
            _ => return None,
        };
        Some(Self {
            delivered: fields[0].parse().ok()?,
            consumer_seq: fields[2].parse().ok()?,
            pending: fields[4].parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fuzz_ack_subjects(subject in "(\\$JS\\.ACK\\.)?([a-zA-Z0-9_$-]{0,3}\\.){0,12}[0-9]{0,25}|\\PC{0,60}") {
            if let Some(info) = DeliveryInfo::parse(&subject) {
                let again = format!("$JS.ACK.S.c.{}.1.{}.1.{}", info.delivered, info.consumer_seq, info.pending);
                prop_assert_eq!(DeliveryInfo::parse(&again), Some(info));
            }
        }
    }

    #[test]
    fn both_forms_are_read() {
        let expected = DeliveryInfo { delivered: 2, consumer_seq: 11, pending: 7 };
        assert_eq!(DeliveryInfo::parse("$JS.ACK.S.normal.2.10.11.1700000000.7"), Some(expected));
        assert_eq!(DeliveryInfo::parse("$JS.ACK.hub.ACC.S.normal.2.10.11.1700000000.7.rnd"), Some(expected));
    }

    #[test]
    fn another_subject_is_not_a_delivery() {
        assert_eq!(DeliveryInfo::parse("_INBOX.x.y"), None);
        assert_eq!(DeliveryInfo::parse("$JS.ACK.S.normal.x.10.11.1.7"), None);
    }
}
