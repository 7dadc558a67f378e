//! What cAdvisor (or the kubelet) and node_exporter tell.
//!
//! cAdvisor gives a series for each container of a pod, one for its pause container (`container="POD"`, or an empty name of
//! an image) and one for the whole pod (`container=""`): only the first kind is added up. Without Kubernetes there is no pod
//! and no container, but the container's name; it is put in the place of the pod's.

use crate::promql;
use crate::rules::ask::{indented, ratio};
use crate::rules::model::{Group, group, record};
use crate::values::Values;

/// File systems that hold something that grows.
const DISKS: &str =
    r#"fstype!~"ramfs|squashfs|iso9660|erofs|devtmpfs|overlay", mountpoint!~"/(run|dev|sys|proc)($|/.*)""#;

/// One kind of bytes, without saying which.
fn memory(series: &str, kind: &str) -> String {
    let of_kind = promql::gauge(&format!(r#"{series}{{kind="{kind}"}}"#));
    format!("max without (kind) (\n  {of_kind}\n)")
}

pub fn resources(values: &Values) -> Group {
    let resources = &values.resources;
    let pods = &resources.pods;
    let in_pods = |series: &str, wrap: &dyn Fn(String) -> String| {
        let inside = wrap(format!(r#"{series}{{pod=~"{pods}", container!="", container!="POD"}}"#));
        let alone = wrap(format!(r#"{series}{{pod="", name=~"{pods}"}}"#));
        format!(
            "sum by (namespace, pod) (\n  {inside}\n)\nor\nsum by (namespace, pod) (\n  label_replace({alone}, \"pod\", \"$1\", \"name\", \"(.*)\")\n)"
        )
    };
    let device = |kind: &str| memory("forebay_device_memory_bytes", kind);
    let stream = |kind: &str| memory("forebay_broker_stream_bytes", kind);
    let account = |kind: &str| memory("forebay_broker_store_bytes", &format!("file_{kind}"));
    let rules = vec![
        record("forebay:process_device:device_memory:utilization", ratio(&device("used"), &device("capacity"))),
        // Each store that there is one of, and all of them where the account has a limit.
        record(
            "forebay:stream:broker_store:utilization",
            format!(
                "{}\nor\nlabel_replace(\n{}, \"stream\", \"all\", \"\", \"\"\n)",
                ratio(&stream("used"), &stream("limit")),
                indented(&ratio(&account("used"), &account("limit")))
            ),
        ),
        record("forebay:pod:container_memory_bytes:sum", in_pods(&resources.memory_metric, &|series| series)),
        record(
            "forebay:pod:container_cpu_cores:rate5m",
            in_pods("container_cpu_usage_seconds_total", &|series| format!("rate({series}[5m])")),
        ),
        // A file system that is mounted twice is one, and one that nobody can write to does not fill up.
        record(
            "forebay:instance_mountpoint:filesystem_free:ratio",
            format!(
                "max by (instance, device, mountpoint) (\n  node_filesystem_avail_bytes{{{DISKS}}}\n  /\n  (node_filesystem_size_bytes{{{DISKS}}} > 0)\n  unless\n  node_filesystem_readonly{{{DISKS}}} == 1\n)"
            ),
        ),
    ];
    group("forebay-resources", rules)
}
