//! The file of tenants and keys: JSON, read whole, believed only if all of it is right.
//!
//! ```json
//! {
//!   "tenants": [
//!     {
//!       "name": "search",
//!       "keys": [
//!         { "id": "2026-11", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" },
//!         { "id": "2027-01", "sha256": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752" }
//!       ],
//!       "requests_per_second": 50,
//!       "tokens_per_minute": 100000,
//!       "tokens_per_day": 20000000,
//!       "concurrency": 64,
//!       "models": ["all-MiniLM-L6-v2"],
//!       "highest_lane": "normal"
//!     }
//!   ]
//! }
//! ```
//!
//! All but `name` and `keys` may be left out: what is not limited is not limited. An error never repeats a value of the
//! file, because somebody may have put a key where its hash belongs.

use std::num::NonZeroU32;

use forebay_shared::ids::{Lane, ModelName, TenantName};
use forebay_shared::model::slug;
use rustc_hash::FxHashSet;
use serde::Deserialize;

use super::keys::{KeyHash, KeyRing};

/// One tenant's name, and what it may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Rights {
    pub name: TenantName,
    pub limits: Limits,
    /// `None` = all.
    pub models: Option<Vec<ModelName>>,
    pub highest_lane: Lane,
}

/// How much a tenant may use, over all apis together; `None` = as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    pub requests_per_second: Option<f64>,
    pub tokens_per_minute: Option<NonZeroU32>,
    pub tokens_per_day: Option<u64>,
    /// Requests at the same time.
    pub concurrency: Option<NonZeroU32>,
}

/// What a file says.
pub struct Config {
    pub tenants: Vec<Rights>,
    /// Positions in `tenants` by key.
    pub ring: KeyRing,
}

/// Why a file cannot be used: says where, never what stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("it is not the JSON that is expected, line {line}, column {column}: {problem}")]
    Json { line: usize, column: usize, problem: &'static str },
    #[error("tenant {position}: {problem}")]
    Tenant { position: usize, problem: &'static str },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tenants: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    keys: Vec<Key>,
    requests_per_second: Option<f64>,
    tokens_per_minute: Option<NonZeroU32>,
    tokens_per_day: Option<u64>,
    concurrency: Option<NonZeroU32>,
    models: Option<Vec<ModelName>>,
    highest_lane: Option<Lane>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    /// For people: which key this is, so that one can be taken out again.
    #[serde(rename = "id")]
    _id: String,
    sha256: String,
}

/// # Errors
/// [`ConfigError`] for the first thing that is wrong.
pub fn parse(text: &str) -> Result<Config, ConfigError> {
    let file: File = serde_json::from_str(text).map_err(|error| json_error(&error))?;
    let mut tenants: Vec<Rights> = Vec::with_capacity(file.tenants.len());
    let (mut keys, mut seen) = (Vec::new(), FxHashSet::default());
    for (index, entry) in file.tenants.into_iter().enumerate() {
        let wrong = |problem| ConfigError::Tenant { position: index + 1, problem };
        // A name is part of subjects and keys in the broker: two that look the same there would be one.
        if entry.name.is_empty() || slug(&entry.name) != entry.name {
            return Err(wrong("`name` must be 1 to 40 of a-z, 0-9, - and _, with no - at its ends or twice in a row"));
        }
        if tenants.iter().any(|other| other.name.as_str() == entry.name) {
            return Err(wrong("`name` was given to another tenant already"));
        }
        if entry.requests_per_second.is_some_and(|rate| !(0.001..=1e6).contains(&rate)) {
            return Err(wrong("`requests_per_second` must be from 0.001 to 1000000"));
        }
        for key in entry.keys {
            let hash = KeyHash::parse(&key.sha256)
                .ok_or_else(|| wrong("`sha256` must be the 64 hexadecimal digits of a key's SHA-256"))?;
            if !seen.insert(hash) {
                return Err(wrong("one of its keys is there already"));
            }
            keys.push((hash, index as u32));
        }
        tenants.push(Rights {
            name: TenantName::from(entry.name.as_str()),
            limits: Limits {
                requests_per_second: entry.requests_per_second,
                tokens_per_minute: entry.tokens_per_minute,
                tokens_per_day: entry.tokens_per_day,
                concurrency: entry.concurrency,
            },
            models: entry.models,
            highest_lane: entry.highest_lane.unwrap_or(Lane::High),
        });
    }
    Ok(Config { tenants, ring: KeyRing::new(keys) })
}

/// Where, and of what kind; the parser's own text may quote the file.
fn json_error(error: &serde_json::Error) -> ConfigError {
    let problem = match error.classify() {
        serde_json::error::Category::Data => "a field is missing, unknown, or of another type than documented",
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is no JSON",
    };
    ConfigError::Json { line: error.line(), column: error.column(), problem }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hash(key: &str) -> String {
        KeyHash::of(key.as_bytes()).to_hex()
    }

    fn error(text: &str) -> String {
        parse(text).err().unwrap().to_string()
    }

    #[test]
    fn a_file_says_who_has_which_keys_and_what_they_may_do() {
        let text = json!({"tenants": [
            {"name": "search", "keys": [{"id": "a", "sha256": hash("one")}, {"id": "b", "sha256": hash("two")}],
             "requests_per_second": 0.5, "tokens_per_minute": 10, "tokens_per_day": 20, "concurrency": 3,
             "models": ["m"], "highest_lane": "low"},
            {"name": "free", "keys": [{"id": "a", "sha256": hash("three")}]},
        ]});
        let config = parse(&text.to_string()).unwrap();
        let found = ["one", "two", "three", "four"].map(|key| config.ring.find(key.as_bytes()));
        assert_eq!(found, [Some(0), Some(0), Some(1), None]);
        assert_eq!(config.tenants[0].limits.requests_per_second, Some(0.5));
        assert_eq!((config.tenants[0].highest_lane, config.tenants[1].highest_lane), (Lane::Low, Lane::High));
        assert_eq!(config.tenants[1].limits, Limits::default());
        assert_eq!(config.tenants[1].models, None);
    }

    #[test]
    fn the_example_of_the_documentation_is_one() {
        let lines = include_str!("config.rs").lines().map(|line| line.trim_start_matches("//!"));
        let example: Vec<_> =
            lines.skip_while(|line| *line != " ```json").skip(1).take_while(|line| *line != " ```").collect();
        assert_eq!(parse(&example.join("\n")).unwrap().tenants[0].name.as_str(), "search");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place_and_never_quoted() {
        let with = |entry: serde_json::Value| json!({"tenants": [entry]}).to_string();
        for (text, expected) in [
            ("{\"tenants\": [".to_owned(), "ends too early"),
            ("sk-secret".to_owned(), "no JSON"),
            (with(json!({"name": "a", "keys": "sk-secret"})), "of another type"),
            (with(json!({"name": "a", "keys": [], "sk-secret": 1})), "unknown"),
            (with(json!({"name": "a", "keys": [{"id": "x", "sha256": "sk-secret"}]})), "tenant 1: `sha256`"),
            (with(json!({"name": "A b", "keys": []})), "tenant 1: `name`"),
            (with(json!({"name": "", "keys": []})), "tenant 1: `name`"),
            (with(json!({"name": "a", "keys": [], "requests_per_second": 0})), "requests_per_second"),
            (with(json!({"name": "a", "keys": [], "tokens_per_minute": 0})), "of another type"),
            (with(json!({"name": "a", "keys": [], "highest_lane": "sk-secret"})), "of another type"),
        ] {
            let error = error(&text);
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("sk-secret"), "{error}");
        }
    }

    #[test]
    fn a_name_and_a_key_belong_to_one_tenant() {
        let tenant = |name, key| json!({"name": name, "keys": [{"id": "a", "sha256": hash(key)}]});
        let two = |a, b| json!({"tenants": [a, b]}).to_string();
        assert!(error(&two(tenant("a", "1"), tenant("a", "2"))).starts_with("tenant 2: `name`"));
        assert!(error(&two(tenant("a", "1"), tenant("b", "1"))).starts_with("tenant 2: one of its keys"));
    }
}
