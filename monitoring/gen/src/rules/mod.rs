//! Recording and alert rules.

mod alerts;
mod ask;
mod model;
mod recording;
pub mod runbooks;

use std::collections::BTreeSet;

use anyhow::Context;

use crate::output::Page;
use crate::promql;
use crate::values::Values;
use model::{File, Rule};

fn files(values: &Values) -> anyhow::Result<Vec<File>> {
    let mut files = recording::files(values)?;
    files.extend(alerts::files(values));
    Ok(files)
}

fn rules(files: &[File]) -> impl Iterator<Item = &Rule> {
    files.iter().flat_map(|file| &file.groups).flat_map(|group| &group.rules)
}

/// Every name that a rule records.
///
/// # Errors
/// The values contradict the tables of metrics.
pub fn recorded(values: &Values) -> anyhow::Result<BTreeSet<String>> {
    let names = rules(&files(values)?)
        .filter_map(|rule| match rule {
            Rule::Recording(rule) => Some(rule.name.clone()),
            Rule::Alert(_) => None,
        })
        .collect();
    Ok(names)
}

/// The names of all alerts.
///
/// # Errors
/// The values contradict the tables of metrics.
pub fn alerts(values: &Values) -> anyhow::Result<BTreeSet<&'static str>> {
    let names = rules(&files(values)?)
        .filter_map(|rule| match rule {
            Rule::Recording(_) => None,
            Rule::Alert(alert) => Some(alert.name),
        })
        .collect();
    Ok(names)
}

/// # Errors
/// A rule names what the tables of metrics do not have.
pub fn pages(values: &Values) -> anyhow::Result<Vec<Page>> {
    let (files, recorded) = (files(values)?, recorded(values)?);
    for rule in rules(&files) {
        promql::check(rule.expr(), &recorded).with_context(|| format!("in {rule:?}"))?;
    }
    let page = |file: &File| {
        let text = file.yaml(&values.runbooks)?;
        Ok(Page::new(format!("prometheus/rules/{}.yml", file.name), text))
    };
    let mut pages: Vec<Page> = files.iter().map(page).collect::<anyhow::Result<_>>()?;
    let alerts = rules(&files).filter_map(|rule| match rule {
        Rule::Recording(_) => None,
        Rule::Alert(alert) => Some(alert),
    });
    pages.push(Page::new("../docs/runbooks/README.md", runbooks::index(alerts)));
    Ok(pages)
}
