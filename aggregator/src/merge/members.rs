//! Who belongs to the fleet: alive, silent, or gone.

use std::collections::BTreeMap;

use forebay_shared::ids::{ModelName, ModelToken, ProcessName};
use forebay_shared::stats::ProcessState;

use super::entry::Head;
use super::{Fleet, Millis};

/// A process that fell silent without a goodbye stays on the lists for 15 minutes after its last report.
pub const LISTED_MS: Millis = 15 * 60 * 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Live,
    /// Missed its reports and has not said goodbye.
    Silent,
}

/// One process of the fleet.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    pub head: &'a Head,
    pub presence: Presence,
}

impl Fleet {
    /// Everybody who has not said goodbye and was heard in the last 15 minutes, by name. A silent boot whose process
    /// has started again since is left out: its successor speaks for it.
    pub fn members(&self, now: Millis) -> Vec<Member<'_>> {
        let mut newest: BTreeMap<&ProcessName, Millis> = BTreeMap::new();
        for entry in self.entries.values() {
            let started = newest.entry(&entry.head.process).or_default();
            *started = entry.head.started_ms.max(*started);
        }
        let mut members: Vec<_> = self
            .entries
            .values()
            .filter_map(|entry| {
                let head = &entry.head;
                if head.is_live(now) {
                    return Some(Member { head, presence: Presence::Live });
                }
                let listed = head.state != ProcessState::Goodbye && head.age(now) < LISTED_MS;
                let current = newest.get(&head.process).is_some_and(|started| head.started_ms >= *started);
                (listed && current).then_some(Member { head, presence: Presence::Silent })
            })
            .collect();
        members.sort_by(|a, b| (&a.head.process, a.head.boot).cmp(&(&b.head.process, b.head.boot)));
        members
    }

    /// Which model a token stands for, as every worker that is remembered said.
    pub fn model_tokens(&self) -> BTreeMap<ModelToken, ModelName> {
        let served = self.entries.values().flat_map(|entry| &entry.head.served);
        served.map(|served| (served.token.clone(), served.model.clone())).collect()
    }
}
