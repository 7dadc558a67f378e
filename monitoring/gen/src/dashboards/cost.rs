//! What answers cost: the price of a device's hour times the hours, shared out by the seconds that devices computed.
//!
//! A device costs the same whether it computes or not. What it computes for a request is that request's; the rest is
//! idle time, which belongs to nobody and is shown apart. Prices are a setting of the workers, in any currency.

use super::ask::{per_second, ratio};
use super::model::{Panel, Row, Unit};
use super::tenants::theirs;

/// What the devices of each chosen model cost in an hour, whether they compute or not.
fn per_hour() -> String {
    let workers = r#"max by (worker, model, device) (forebay_worker_up{model=~"$model"})"#;
    format!("sum by (model) ({workers} * on (device) group_left () {PRICE})")
}

/// What one hour of a device of each model costs: the mean, where devices differ.
fn of_one_device() -> String {
    let workers = r#"max by (worker, model, device) (forebay_worker_up{model=~"$model"} == 1)"#;
    format!("avg by (model) ({workers} * on (device) group_left () {PRICE})")
}

const PRICE: &str = "max by (device) (forebay_device_price_per_hour)";

/// The price of what was computed, per hour and model.
fn computing() -> String {
    format!("{} * on (model) {}", per_second(&["model"], &chosen("forebay_device_seconds_total")), of_one_device())
}

fn chosen(name: &str) -> String {
    super::ask::of(name, "")
}

/// The price of `number` things that are counted.
fn of_things(number: u32, cost_per_hour: &str, counter: &str) -> String {
    let per_hour = format!("3600 * {}", per_second(&["model"], counter));
    format!("{number} * {}", ratio(&format!("({cost_per_hour})"), &format!("({per_hour})")))
}

pub fn of_models() -> Row {
    let predictions = chosen("forebay_predictions_total");
    let tokens = chosen("forebay_tokens_total");
    let idle = format!("clamp_min({} - on (model) ({}), 0)", per_hour(), computing());
    Row::new(
        "Cost, in the currency of the price",
        vec![
            Panel::timeseries(
                "Cost per 1 000 inferences",
                "Rows that were answered, at the price of devices' hours: with idle time, and computing alone.",
                Unit::Money,
            )
            .query("{{model}} with idle time", of_things(1000, &per_hour(), &predictions))
            .query("{{model}} computing", of_things(1000, &computing(), &predictions))
            .decimals(6),
            Panel::timeseries(
                "Cost per million tokens",
                "Tokens of answered requests, at the price of devices' hours: with idle time, and computing alone.",
                Unit::Money,
            )
            .query("{{model}} with idle time", of_things(1_000_000, &per_hour(), &tokens))
            .query("{{model}} computing", of_things(1_000_000, &computing(), &tokens))
            .decimals(4),
            Panel::stacked("Cost per hour: computing and idle", "What the devices of the models cost.", Unit::Money)
                .query("{{model}} computing", computing())
                .query("{{model}} idle", idle)
                .decimals(4),
        ],
    )
}

pub fn of_tenants() -> Row {
    let seconds = theirs("forebay_tenant_device_seconds_total", r#"model=~"$model""#);
    let price = of_one_device();
    let spent = |window: &str| {
        let used = super::ask::grown(&["tenant", "model"], &seconds, window);
        format!("sum by (tenant) ({used} / 3600 * on (model) group_left () {price})")
    };
    Row::new(
        "Cost per customer",
        vec![
            Panel::stacked(
                "Cost per hour and customer",
                "By the seconds that devices computed for each tenant; idle time is nobody's.",
                Unit::Money,
            )
            .query("{{tenant}}", spent("1h"))
            .decimals(4)
            .width(12),
            Panel::bar_gauge(
                "Cost in the time on display",
                "By the seconds that devices computed for each tenant.",
                Unit::Money,
            )
            .query("{{tenant}}", spent("$__range"))
            .decimals(4)
            .width(12),
        ],
    )
}
