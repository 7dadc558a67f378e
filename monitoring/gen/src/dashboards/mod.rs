//! Grafana dashboards: one file each here, one JSON each there.
//!
//! `model` says what a dashboard is made of, `ask` writes the queries, `limits` are the thresholds of the alerts,
//! `grid` gives panels their places and `json`, `panel`, `variables`, `annotations` write what Grafana reads.

mod annotations;
mod ask;
mod batching;
mod cache;
mod cost;
mod gateway;
mod grid;
mod json;
mod limits;
mod logs;
mod ml_model;
mod model;
mod models;
mod overview;
mod panel;
mod queue;
mod red;
mod resources;
mod tenants;
mod variables;

use std::collections::BTreeSet;

use anyhow::Context;

use self::limits::Limits;
use self::model::Dashboard;
use crate::output::Page;
use crate::promql;
use crate::rules;
use crate::values::Values;

/// # Errors
/// A query names what the tables do not have, or panels do not fill their lines.
pub fn pages(values: &Values) -> anyhow::Result<Vec<Page>> {
    let (limits, recorded) = (Limits::new(values), rules::recorded(values)?);
    variables::check().context("the choices of dashboards")?;
    [annotations::STARTS, annotations::MODELS].iter().try_for_each(|query| promql::check(query, &BTreeSet::new()))?;
    all(&limits).iter().map(|dashboard| page(dashboard, &recorded)).collect()
}

fn all(limits: &Limits) -> Vec<Dashboard> {
    vec![
        overview::dashboard(limits),
        batching::dashboard(limits),
        red::dashboard(limits),
        gateway::dashboard(limits),
        models::dashboard(limits),
        queue::dashboard(limits),
        cache::dashboard(limits),
        resources::dashboard(limits),
        tenants::dashboard(),
        logs::dashboard(),
        ml_model::dashboard(limits),
    ]
}

fn page(dashboard: &Dashboard, recorded: &BTreeSet<String>) -> anyhow::Result<Page> {
    for (panel, query) in json::queries(dashboard).filter(|(panel, _)| !panel.from_logs) {
        promql::check(query, recorded).with_context(|| format!("`{}` on {}", panel.title, dashboard.uid))?;
    }
    let text = json::text(dashboard)?;
    Ok(Page::new(format!("grafana/dashboards/{}.json", dashboard.uid), text))
}

#[cfg(test)]
mod tests;
