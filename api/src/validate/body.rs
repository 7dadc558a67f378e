//! The fields of a request body, read in one pass over its bytes.
//!
//! Unknown fields are skipped and of repeated ones the last counts, as clients of these protocols expect. A field keeps
//! the value it came with ([`Scalar`]): whether that is what the option needs is decided when it is asked for, so that
//! the error can name the field. Strings are borrowed from the body unless they contain escapes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::rows::{Rows, RowsSeed};
use super::scalar::Scalar;
use crate::error::Failure;

/// What an embedding request says, in either dialect. An absent field reads as [`Scalar::Null`].
#[derive(Debug, Default)]
pub struct Fields<'a> {
    pub rows: Option<Rows>,
    pub model: Scalar<'a>,
    pub dimensions: Scalar<'a>,
    pub encoding_format: Scalar<'a>,
    pub truncate: Scalar<'a>,
    pub normalize: Scalar<'a>,
    pub prompt_name: Scalar<'a>,
    pub truncation_direction: Scalar<'a>,
}

/// Reads a body whose inputs stand in `input_field`.
///
/// # Errors
/// [`Failure::MalformedJson`] if this is no JSON, [`JobError::InvalidInput`](forebay_shared::error::JobError) if it is
/// JSON but no object.
pub fn parse<'a>(body: &'a [u8], input_field: &'static str, max_inputs: usize) -> Result<Fields<'a>, Failure> {
    let malformed = |error: serde_json::Error| Failure::MalformedJson(error.to_string());
    if body.trim_ascii_start().first() != Some(&b'{') {
        serde_json::from_slice::<IgnoredAny>(body).map_err(malformed)?;
        return Err(Failure::invalid(input_field, "the request body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let fields = FieldsSeed { input_field, max_inputs }.deserialize(&mut json).map_err(malformed)?;
    json.end().map_err(malformed)?;
    Ok(fields)
}

struct FieldsSeed {
    input_field: &'static str,
    max_inputs: usize,
}

impl<'de> DeserializeSeed<'de> for FieldsSeed {
    type Value = Fields<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request body")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(Name(name)) = map.next_key()? {
            match &*name {
                name if name == self.input_field => {
                    fields.rows = Some(map.next_value_seed(RowsSeed { max_inputs: self.max_inputs })?);
                }
                "model" => fields.model = map.next_value()?,
                "dimensions" => fields.dimensions = map.next_value()?,
                "encoding_format" => fields.encoding_format = map.next_value()?,
                "truncate" => fields.truncate = map.next_value()?,
                "normalize" => fields.normalize = map.next_value()?,
                "prompt_name" => fields.prompt_name = map.next_value()?,
                "truncation_direction" => fields.truncation_direction = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

/// The name of a field.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
