//! What was found, as a table and as JSON.

use std::fmt;

use serde::Serialize;

use super::compare::Agreement;

/// What became of one case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    Missed,
    /// Said for information: nothing is promised here.
    Noted,
}

impl Verdict {
    pub const fn of(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Missed }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Missed => "MISS",
            Self::Noted => "note",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    pub name: String,
    pub shapes: String,
    /// What the device computes in.
    pub dtype: &'static str,
    pub worst_cosine: Option<f64>,
    pub worst_difference: Option<f64>,
    /// What had to hold.
    pub limit: String,
    pub verdict: Verdict,
    /// What the numbers do not say; empty if nothing.
    pub detail: String,
}

impl Case {
    /// A case that never got as far as numbers.
    pub fn failed(name: impl Into<String>, dtype: &'static str, reason: impl fmt::Display) -> Self {
        Self {
            name: name.into(),
            shapes: String::new(),
            dtype,
            worst_cosine: None,
            worst_difference: None,
            limit: "computes at all".to_owned(),
            verdict: Verdict::Missed,
            detail: reason.to_string(),
        }
    }

    /// The same with the numbers of a comparison.
    pub fn with(mut self, agreement: Agreement) -> Self {
        self.worst_cosine = Some(agreement.cosine);
        self.worst_difference = Some(agreement.difference);
        self
    }
}

/// A self-test that has ended.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The device in its own words.
    pub device: String,
    /// The device imitates another: its answers count, its speed does not.
    pub stand_in: bool,
    pub seed: u64,
    pub cases: Vec<Case>,
}

impl Report {
    pub fn new(device: String, seed: u64) -> Self {
        Self { stand_in: device.contains("emulated"), device, seed, cases: Vec::new() }
    }

    pub fn missed(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| case.verdict == Verdict::Missed)
    }

    /// Cases that had to hold, and how many of them did.
    pub fn passed_of(&self) -> (usize, usize) {
        let count = |verdict| self.cases.iter().filter(|case| case.verdict == verdict).count();
        let passed = count(Verdict::Passed);
        (passed, passed + count(Verdict::Missed))
    }

    pub fn is_passed(&self) -> bool {
        let (passed, all) = self.passed_of();
        all > 0 && passed == all
    }

    /// The report as one JSON object, with the counts beside the cases.
    pub fn to_json(&self) -> serde_json::Value {
        let (passed, of) = self.passed_of();
        let mut json = serde_json::json!(self);
        json["passed"] = passed.into();
        json["of"] = of.into();
        json
    }
}

const HEAD: [&str; 7] = ["case", "shapes", "dtype", "worst cosine", "worst difference", "limit", "verdict"];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.stand_in { ", a stand-in: its answers count, its speed does not" } else { "" };
        writeln!(f, "self-test of {}{kind}; seed {}", self.device, self.seed)?;
        let rows: Vec<[String; 7]> = self.cases.iter().map(cells).collect();
        let width = |column: usize| {
            let widths = rows.iter().map(|row| row[column].chars().count());
            widths.chain([HEAD[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let mut line = |cells: &[&str]| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", padded.join("  ").trim_end())
        };
        line(&HEAD)?;
        for row in &rows {
            line(&row.each_ref().map(String::as_str))?;
        }
        let (passed, all) = self.passed_of();
        write!(f, "passed: {passed} of {all}")
    }
}

fn cells(case: &Case) -> [String; 7] {
    let verdict = match case.detail.as_str() {
        "" => case.verdict.as_str().to_owned(),
        detail => format!("{}: {detail}", case.verdict.as_str()),
    };
    [
        case.name.clone(),
        case.shapes.clone(),
        case.dtype.to_owned(),
        case.worst_cosine.map_or_else(String::new, |cosine| format!("{cosine:.7}")),
        case.worst_difference.map_or_else(String::new, |difference| format!("{difference:.1e}")),
        case.limit.clone(),
        verdict,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_miss_is_seen_in_the_table_and_in_the_count() {
        let mut report = Report::new("emulated NVIDIA thing".to_owned(), 5);
        assert!(!report.is_passed(), "nothing tested is nothing passed");
        let good = Case { verdict: Verdict::Passed, detail: String::new(), ..Case::failed("a", "f32", "") };
        report.cases.push(good.clone().with(Agreement::PERFECT));
        report.cases.push(Case { verdict: Verdict::Noted, ..good });
        assert!(report.is_passed());
        report.cases.push(Case::failed("b", "f32", "no memory"));
        let text = report.to_string();
        assert!(!report.is_passed() && text.ends_with("passed: 1 of 2"), "{text}");
        assert!(
            text.contains("a stand-in") && text.contains("MISS: no memory") && text.contains("1.0000000"),
            "{text}"
        );
        assert_eq!(report.to_json()["of"], 2);
        assert_eq!(report.missed().count(), 1);
    }
}
