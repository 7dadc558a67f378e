//! `reference/README.md`: what each reference guide prints, and what forebay has for it.
//!
//! The names come from the table of aliases, the rest from `reference/stacks.yml` and `reference/queries.yml`. The run ends
//! where a list of names is not the one of the table.

mod lists;

use std::fmt::Write;
use std::path::Path;

use anyhow::bail;
use forebay_shared::metrics::compat::{self, Alias, Fold, Mapped, Part};
use forebay_shared::metrics::schema::fleet_name;

use self::lists::{AsPrinted, Name, Query, Row, Stack};
use crate::output::Page;

const HEAD: &str = "\
# Five monitoring guides, and what forebay has for each

<!-- Written by monitoring/gen from stacks.yml, queries.yml and the table of names in shared/src/metrics/compat. -->

Five teams bring the guides that they monitored their inference servers by. Here stands everything that these print: names,
queries, panels, alerts, commands, addresses, credentials, files, settings and dashboards, each with its equivalent.

A name of a guide answers in two ways. Recording rules (`monitoring/prometheus/rules/compat-1.yml` … `compat-5.yml`) make the
series, with `job=\"forebay-compat\"`, so that they never mix with those of another application. And an aggregator serves
them to whoever asks it: `GET /metrics?names=1` … `5`. Take one of the two, or everything counts twice.

A series has the labels that its guide prints, and `model` where the guide says \"by model\" or where values of several models
cannot be put together. While two versions with different buckets run, histograms have the label `schema` as well.
";

/// `dir` is the folder of monitoring.
pub fn page(dir: &Path) -> anyhow::Result<Page> {
    let stacks: Vec<Stack> = lists::read(&dir.join("reference/stacks.yml"))?;
    let queries: Vec<Query> = lists::read(&dir.join("reference/queries.yml"))?;
    let mut text = HEAD.to_owned();
    for stack in &stacks {
        let aliases = compat::stack(stack.stack);
        same_names(stack, &aliases)?;
        let printed: Vec<_> = queries.iter().filter(|query| query.stack == stack.stack).collect();
        let _infallible = section(stack, &aliases, &printed, &mut text);
    }
    Ok(Page::new("reference/README.md", text))
}

/// The list and the table must have the same names; others say where they come from.
fn same_names(stack: &Stack, aliases: &[Alias]) -> anyhow::Result<()> {
    let listed: Vec<_> = stack.names.iter().filter(|name| name.here.is_none()).map(Name::bare).collect();
    let table: Vec<_> = aliases.iter().map(|alias| alias.name).collect();
    if listed != table {
        bail!("stack {} of stacks.yml lists {listed:?}, the table of names has {table:?}", stack.stack);
    }
    Ok(())
}

fn section(stack: &Stack, aliases: &[Alias], queries: &[&Query], out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n## {}. {}\n\nGuide: {}.", stack.stack, stack.title, stack.guide)?;
    let names: Vec<_> = stack.names.iter().map(|name| (code(&name.printed), name_here(name, aliases))).collect();
    table("Names", "name", "made of", &names, out)?;
    queries_table(queries, out)?;
    let rows = |rows: &[Row]| rows.iter().map(|row| (code(&row.printed), row.answer())).collect::<Vec<_>>();
    let parts = [
        ("Panels", &stack.panels),
        ("Alerts", &stack.alerts),
        ("Commands", &stack.commands),
        ("Addresses", &stack.addresses),
        ("Credentials", &stack.credentials),
        ("Files", &stack.files),
        ("Settings", &stack.settings),
        ("Dashboards", &stack.dashboards),
    ];
    for (title, list) in parts {
        table(title, "printed", "here", &rows(list), out)?;
    }
    Ok(())
}

fn table(title: &str, left: &str, right: &str, rows: &[(String, String)], out: &mut String) -> std::fmt::Result {
    if rows.is_empty() {
        return writeln!(out, "\n### {title}\n\nNone are printed.");
    }
    writeln!(out, "\n### {title}\n\n| {left} | {right} |\n|---|---|")?;
    rows.iter().try_for_each(|(printed, here)| writeln!(out, "| {} | {} |", cell(printed), cell(here)))
}

fn queries_table(queries: &[&Query], out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n### Queries\n\n| what it is | printed | here |\n|---|---|---|")?;
    for query in queries {
        let printed = if query.as_printed == AsPrinted::Words { query.printed.clone() } else { code(&query.printed) };
        let instead = query.query.as_deref().map(code);
        let here = match (query.as_printed, instead) {
            (AsPrinted::Valid, _) => "as printed".to_owned(),
            (AsPrinted::Misleading, Some(instead)) => format!("misleads: {instead}. {}", query.why()),
            (AsPrinted::Invalid, Some(instead)) => format!("no valid PromQL: {instead}. {}", query.why()),
            (AsPrinted::Words, Some(instead)) => format!("{instead}. {}", query.why()),
            (_, None) => query.why().to_owned(),
        };
        writeln!(out, "| {} | {} | {} |", cell(&query.says), cell(&printed), cell(&here))?;
    }
    Ok(())
}

fn name_here(name: &Name, aliases: &[Alias]) -> String {
    if let Some(here) = &name.here {
        return here.clone();
    }
    aliases.iter().find(|alias| alias.name == name.bare()).map_or_else(String::new, made_of)
}

/// In words what an alias is made of.
fn made_of(alias: &Alias) -> String {
    let scale = if alias.scale == 1.0 { String::new() } else { format!("{} × ", alias.scale) };
    let largest = if alias.fold == Fold::Max && alias.scale == 1.0 { "the largest " } else { "" };
    let parts: Vec<_> = alias.parts.iter().map(part_of).collect();
    let zero = if alias.zero_if_absent { "; 0 where there is none" } else { "" };
    format!("{scale}{largest}{}{zero}", parts.join("; "))
}

fn part_of(part: &Part) -> String {
    let mut text = code(&fleet_name(part.stem));
    for matcher in &part.matchers {
        let is = if matcher.one_of { "is" } else { "is not" };
        let values: Vec<_> = matcher.values.iter().map(|value| code(value)).collect();
        let _infallible = write!(text, ", whose {} {is} {}", code(matcher.label), values.join(" or "));
    }
    for mapped in &part.labels {
        let _infallible = match mapped {
            Mapped::From { theirs, ours } if theirs == ours => write!(text, ", by {}", code(ours)),
            Mapped::From { theirs, ours } => write!(text, ", by {} as {}", code(ours), code(theirs)),
            Mapped::Fixed { theirs, value } => write!(text, ", as {}", code(&format!("{theirs}=\"{value}\""))),
        };
    }
    text
}

/// In backticks, in as many as it takes.
fn code(text: &str) -> String {
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

/// A bar would end the cell, also within backticks.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").trim_end_matches('\n').replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitoring() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn a_name_says_what_it_is_made_of() {
        let alias = |stack, name| compat::stack(stack).into_iter().find(|alias| alias.name == name).unwrap();
        let requests = made_of(&alias(1, "batcher_requests_total"));
        assert!(requests.starts_with("`forebay_requests_total`, whose `outcome` is `ok`, as `status=\"success\"`; "));
        let status = made_of(&alias(5, "api_request_total"));
        assert_eq!(
            status,
            "`forebay_http_requests_total`, by `method`, by `route` as `endpoint`, by `status` as `http_status`"
        );
        assert_eq!(made_of(&alias(2, "cpu_usage_percent")), "100 × `forebay_host_cpu_ratio`");
    }

    #[test]
    fn every_table_row_has_as_many_cells_as_its_head() {
        let text = page(monitoring()).unwrap().text;
        let mut width = None;
        for line in text.lines() {
            let cells = line.replace("\\|", "").matches('|').count();
            match width {
                Some(width) if cells > 0 => assert_eq!(cells, width, "{line}"),
                _ => width = (cells > 0).then_some(cells),
            }
        }
    }

    #[test]
    fn what_is_not_valid_as_printed_has_a_correction_and_a_reason() {
        let queries: Vec<Query> = lists::read(&monitoring().join("reference/queries.yml")).unwrap();
        for query in queries.iter().filter(|query| query.as_printed != AsPrinted::Valid) {
            assert!(query.query.is_some() && !query.why().is_empty(), "{}", query.printed);
        }
    }
}
