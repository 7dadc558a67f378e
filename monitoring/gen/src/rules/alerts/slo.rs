use super::{Alert, critical, warning};
use crate::values::{Values, Wait};

/// A long window says that it matters, a short one that it still goes on.
pub fn alerts(values: &Values) -> Vec<Alert> {
    let [fast, slow] = [fast, slow].map(|expr| move |of| expr(values, of));
    // The windows are wait enough.
    let at_once = Wait::none();
    vec![
        critical(
            "ForebaySloAvailabilityBurnFast",
            fast("availability"),
            &at_once,
            [
                "The budget of failed requests is used up fast",
                "Requests to {{ $labels.model }} fail {{ $value | humanize }} times as often as the promise of availability allows.",
            ],
        ),
        warning(
            "ForebaySloAvailabilityBurnSlow",
            slow("availability"),
            &at_once,
            [
                "More requests fail than promised",
                "Over three days, requests to {{ $labels.model }} fail {{ $value | humanize }} times as often as the promise of availability allows.",
            ],
        ),
        critical(
            "ForebaySloLatencyBurnFast",
            fast("latency"),
            &at_once,
            [
                "The budget of slow requests is used up fast",
                "Requests to {{ $labels.model }} are slow {{ $value | humanize }} times as often as the promise of latency allows.",
            ],
        ),
        warning(
            "ForebaySloLatencyBurnSlow",
            slow("latency"),
            &at_once,
            [
                "More requests are slow than promised",
                "Over three days, requests to {{ $labels.model }} are slow {{ $value | humanize }} times as often as the promise of latency allows.",
            ],
        ),
    ]
}

fn fast(values: &Values, of: &str) -> String {
    let slo = &values.slo;
    let both = |long, short, factor, bad| pair(of, [long, short], factor, slo.min_bad_per_hour, bad);
    format!("(\n{}\n)\nor\n(\n{}\n)", both("1h", "5m", slo.burn_1h, "1h"), both("6h", "30m", slo.burn_6h, "6h"))
}

fn slow(values: &Values, of: &str) -> String {
    pair(of, ["3d", "6h"], values.slo.burn_3d, values.slo.min_bad_per_hour, "6h")
}

fn pair(of: &str, [long, short]: [&str; 2], factor: f64, least: f64, bad: &str) -> String {
    let burn = |window| format!("forebay:model:slo_{of}:burn_rate{window} > {factor}");
    format!(
        "  {}\n  and\n  {}\n  and\n  forebay:model:slo_{of}_bad:rate{bad} * 3600 >= {least}",
        burn(long),
        burn(short)
    )
}
