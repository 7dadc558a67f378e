//! Recording rules: what dashboards and alerts ask more than once.

mod fleet;
mod requests;
mod resources;
mod slo;

use super::model::File;
use crate::values::Values;

const ABOUT: &str = "Names: forebay:<labels that are left>:<metric>:<what was done to it>. Rates are per second.";

pub fn files(values: &Values) -> anyhow::Result<Vec<File>> {
    let slo = File { name: "recording-slo", about: ABOUT, groups: vec![slo::short(values)?, slo::long(values)?] };
    let all = File {
        name: "recording",
        about: ABOUT,
        groups: vec![
            requests::requests(),
            requests::http(),
            requests::history(),
            fleet::queue(values),
            fleet::workers(),
            fleet::cache(),
            resources::resources(values),
        ],
    };
    Ok(vec![all, slo])
}
