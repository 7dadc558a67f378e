use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::http::fake::FakeFleet;
use crate::http::{endpoint, router};

/// `METHOD path` of everything.
type Names = BTreeSet<String>;

#[test]
fn every_route_is_described_and_every_description_has_its_route() {
    let _all = router(&Arc::new(FakeFleet::default().state()));
    let served: Names = endpoint::listed().into_iter().filter(|name| !name.starts_with("HEAD ")).collect();
    let described: Names =
        operations().iter().map(Operation::names).map(|(path, method)| format!("{method} {path}")).collect();
    assert!(served.contains("POST /v1/embeddings"), "{served:?}");
    let only = |some: &Names, others: &Names| some.difference(others).cloned().collect::<Vec<_>>();
    assert!(only(&served, &described).is_empty(), "not described: {:?}", only(&served, &described));
    assert!(only(&described, &served).is_empty(), "not served: {:?}", only(&described, &served));
}

#[test]
fn every_reference_leads_somewhere_and_every_family_is_introduced() {
    let document: Value = serde_json::from_slice(&text()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value) {
                ("$ref", Value::String(target)) => found.push(target),
                _ => references(value, found),
            }),
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 10);
    for target in found {
        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} is nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let tag = operation["tags"][0].as_str().unwrap();
            assert!(FAMILIES.iter().any(|(name, _)| *name == tag), "{method} {path}: {tag}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}: the id is taken");
            assert!(operation["responses"].as_object().is_some_and(|all| !all.is_empty()), "{method} {path}");
        }
    }
}
