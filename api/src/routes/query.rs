//! What the query of a list, or of one thing, says: read and refused in the same words everywhere. A name without a value
//! is a mistake, not a wish for everything.

use axum::extract::Query;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::Failure;

/// # Errors
/// A name that is known here stands twice. `names` are those, as the message lists them.
pub fn read<T: DeserializeOwned>(parts: &Parts, names: &'static str) -> Result<T, Failure> {
    let Ok(Query(query)) = Query::<T>::try_from_uri(&parts.uri) else {
        return Err(Failure::invalid("query", format!("the query may hold {names}, each at most once")));
    };
    Ok(query)
}

/// How many are wanted on a page: from 1 to `most`, `usual` if the query does not say.
///
/// # Errors
/// It is no such number.
pub fn limit(said: Option<&str>, usual: usize, most: usize) -> Result<usize, Failure> {
    let Some(said) = said else { return Ok(usual) };
    let number = said.parse().ok().filter(|limit| (1..=most).contains(limit));
    number.ok_or_else(|| Failure::invalid("limit", format!("`limit` must be a whole number from 1 to {most}")))
}

/// # Errors
/// It is there and empty.
pub fn not_empty<'a>(name: &'static str, said: Option<&'a str>) -> Result<Option<&'a str>, Failure> {
    match said {
        Some("") => Err(Failure::invalid(name, format!("`{name}` is empty; give it a value or leave it out"))),
        said => Ok(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_within_bounds() {
        assert_eq!(limit(None, 20, 100), Ok(20));
        assert_eq!(limit(Some("100"), 20, 100), Ok(100));
        for wrong in ["", "0", "101", "-1", "1.0", "ten", "99999999999999999999"] {
            assert!(limit(Some(wrong), 20, 100).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_empty_value_is_no_value_and_not_everything() {
        assert_eq!(not_empty("after", None), Ok(None));
        assert_eq!(not_empty("after", Some("a")), Ok(Some("a")));
        assert!(not_empty("after", Some("")).is_err());
    }
}
