//! The inputs of a request, read straight from the JSON text into rows of work.
//!
//! A request carries one of: a string, an array of strings, an array of token ids (one input), an array of arrays of
//! token ids. Text and id arrays may be mixed. A value of the wrong shape is no error of the deserialiser but a
//! [`RowFault`], so that "no JSON" and "not what we take" stay two things; the rest of the value is skipped.

use std::fmt;
use std::sync::Arc;

use super::scalar::whole;
use forebay_shared::error::JobError;
use forebay_shared::job::{Input, MAX_INPUT_BYTES};
use forebay_shared::metrics::Check;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The first thing that is wrong with the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowFault {
    /// The field is absent.
    Missing,
    /// Not a string, an array of strings or token ids.
    Shape,
    /// A number that is no token id.
    TokenId,
    /// No inputs at all.
    NoInputs,
    /// The input at this position is empty.
    Empty { index: usize },
    /// The input at this position is larger than any model reads.
    TooLong { index: usize, bytes: usize },
    /// More inputs than allowed.
    TooMany { got: usize, max: usize },
}

impl RowFault {
    /// Which check found it.
    pub const fn check(&self) -> Check {
        match self {
            Self::Missing | Self::Shape | Self::TokenId => Check::Json,
            Self::NoInputs | Self::TooMany { .. } => Check::InputCount,
            Self::Empty { .. } => Check::InputEmpty,
            Self::TooLong { .. } => Check::InputLength,
        }
    }

    /// What the client is told about the field called `field`.
    pub fn to_error(&self, field: &str) -> JobError {
        let message = match self {
            Self::Missing => format!("`{field}` is missing"),
            Self::Shape => {
                format!("`{field}` must be a string, an array of strings, or one or several arrays of token ids")
            }
            Self::TokenId => format!("token ids in `{field}` must be integers from 0 to {}", u32::MAX),
            Self::NoInputs => format!("`{field}` cannot be empty"),
            Self::Empty { index } => format!("`{field}` cannot be empty, however input {index} is"),
            Self::TooLong { index, bytes } => {
                format!("input {index} in `{field}` has {bytes} bytes, at most {MAX_INPUT_BYTES} are accepted")
            }
            Self::TooMany { got, max } => return JobError::TooManyInputs { got: *got, max: *max },
        };
        JobError::InvalidInput { message, param: Some(field.to_owned()) }
    }
}

/// The inputs in order, or what is wrong with them.
pub type Rows = Result<Vec<Input>, RowFault>;

/// Reads inputs, at most `max_inputs` of them.
#[derive(Debug, Clone, Copy)]
pub struct RowsSeed {
    pub max_inputs: usize,
}

/// A seed that answers JSON types it has no use for with one value, after skipping what they hold.
macro_rules! otherwise {
    ($($visit:ident($type:ty))*, map => $value:expr) => {
        $(fn $visit<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok($value)
        })*

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($value)
        }
    };
}

impl<'de> DeserializeSeed<'de> for RowsSeed {
    type Value = Rows;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Rows, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RowsSeed {
    type Value = Rows;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("inputs")
    }

    fn visit_str<E>(self, text: &str) -> Result<Rows, E> {
        Ok(text_row(text, 0).map(|row| vec![row]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Rows, A::Error> {
        let Some(first) = elements.next_element_seed(ElementSeed { index: 0 })? else {
            return Ok(Err(RowFault::NoInputs));
        };
        if let Element::Number(_) = first {
            return Ok(token_ids(Some(first), 0, elements)?.and_then(|ids| Ok(vec![tokens_row(ids, 0)?])));
        }
        let mut rows = Vec::new();
        let mut next = Some(first);
        while let Some(element) = next {
            if rows.len() == self.max_inputs {
                let got = rows.len() + 1 + skip_rest(elements)?;
                return Ok(Err(RowFault::TooMany { got, max: self.max_inputs }));
            }
            match element {
                Element::Row(Ok(row)) => rows.push(row),
                Element::Row(Err(fault)) => return skip_rest(elements).map(|_| Err(fault)),
                Element::Number(_) | Element::Other => return skip_rest(elements).map(|_| Err(RowFault::Shape)),
            }
            next = elements.next_element_seed(ElementSeed { index: rows.len() })?;
        }
        Ok(Ok(rows))
    }

    otherwise! { visit_bool(bool) visit_u64(u64) visit_i64(i64) visit_f64(f64), map => Err(RowFault::Shape) }
}

/// What an array of inputs may hold.
enum Element {
    Row(Result<Input, RowFault>),
    /// A token id, or `None` for any other number.
    Number(Option<u32>),
    Other,
}

/// Reads the element at `index`. Recurses into arrays as deep as the JSON parser allows, which is 128.
struct ElementSeed {
    index: usize,
}

impl<'de> DeserializeSeed<'de> for ElementSeed {
    type Value = Element;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Element, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ElementSeed {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one input")
    }

    fn visit_str<E>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Row(text_row(text, self.index)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Element, E> {
        Ok(Element::Number(u32::try_from(number).ok()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Element, A::Error> {
        let ids = token_ids(None, self.index, elements)?;
        Ok(Element::Row(ids.and_then(|ids| tokens_row(ids, self.index))))
    }

    fn visit_i64<E>(self, _negative: i64) -> Result<Element, E> {
        Ok(Element::Number(None))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Element, E> {
        Ok(Element::Number(whole(number).and_then(|number| u32::try_from(number).ok())))
    }

    otherwise! { visit_bool(bool), map => Element::Other }
}

/// Token ids up to the end of their array.
fn token_ids<'de, A: SeqAccess<'de>>(
    first: Option<Element>,
    index: usize,
    mut elements: A,
) -> Result<Result<Vec<u32>, RowFault>, A::Error> {
    let mut ids = Vec::new();
    let mut next = first;
    loop {
        match next {
            Some(Element::Number(Some(id))) => ids.push(id),
            Some(Element::Number(None)) => return skip_rest(elements).map(|_| Err(RowFault::TokenId)),
            Some(Element::Row(_) | Element::Other) => return skip_rest(elements).map(|_| Err(RowFault::Shape)),
            None => {}
        }
        next = elements.next_element_seed(ElementSeed { index })?;
        if next.is_none() {
            return Ok(Ok(ids));
        }
    }
}

fn text_row(text: &str, index: usize) -> Result<Input, RowFault> {
    match text.len() {
        0 => Err(RowFault::Empty { index }),
        bytes if bytes > MAX_INPUT_BYTES => Err(RowFault::TooLong { index, bytes }),
        _ => Ok(Input::Text(Arc::from(text))),
    }
}

fn tokens_row(ids: Vec<u32>, index: usize) -> Result<Input, RowFault> {
    match ids.len() * size_of::<u32>() {
        0 => Err(RowFault::Empty { index }),
        bytes if bytes > MAX_INPUT_BYTES => Err(RowFault::TooLong { index, bytes }),
        _ => Ok(Input::Tokens(ids)),
    }
}

/// Reads what is left and returns how many elements that was.
fn skip_rest<'de, A: SeqAccess<'de>>(mut elements: A) -> Result<usize, A::Error> {
    let mut count = 0;
    while elements.next_element::<IgnoredAny>()?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
