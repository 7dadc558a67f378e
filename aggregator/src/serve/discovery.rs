//! `/sd`: where Prometheus finds the processes (HTTP service discovery).

use std::collections::BTreeMap;

use forebay_shared::ids::Role;
use serde::Serialize;

use crate::hub::Hub;

/// One entry of the format that `http_sd_configs` reads.
#[derive(Debug, Serialize)]
pub struct TargetGroup {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// Every api and worker that has an address. A silent one stays for 15 minutes: a target that vanished at once would
/// take its `up == 0` with it, and nobody would be alarmed.
pub fn targets(hub: &Hub) -> Vec<TargetGroup> {
    let now = hub.now();
    let fleet = hub.fleet();
    let mut groups: BTreeMap<(String, String), TargetGroup> = BTreeMap::new();
    for member in fleet.members(now) {
        let head = member.head;
        let (Role::Api | Role::Worker, Some(address)) = (head.role, &head.address) else { continue };
        let labels = BTreeMap::from([
            ("role", head.role.as_str().to_owned()),
            ("process", head.process.to_string()),
            // Dropped after relabelling: a restart must not make new series.
            ("__meta_forebay_boot", head.boot.to_string()),
            ("__meta_forebay_state", head.state.as_str().to_owned()),
        ]);
        let group = TargetGroup { targets: [address.clone()], labels };
        groups.insert((head.process.to_string(), address.clone()), group);
    }
    groups.into_values().collect()
}
