//! The value of an option as it came; what it must be is decided when it is asked for.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Failure;

/// A field that is not the input. The methods are told the field's name, for the error.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Scalar<'a> {
    /// `null`, or the field is absent.
    #[default]
    Null,
    Bool(bool),
    Unsigned(u64),
    Text(Cow<'a, str>),
    /// A negative number, a fraction, an array or an object: no option takes these.
    Other,
}

impl<'a> Scalar<'a> {
    /// # Errors
    /// The value of the field `name` is no string.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, Failure> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            _ => Err(Failure::invalid(name, format!("`{name}` must be a string"))),
        }
    }

    /// # Errors
    /// The value of the field `name` is neither true nor false.
    pub fn bool(&self, name: &'static str) -> Result<Option<bool>, Failure> {
        match self {
            Self::Null => Ok(None),
            Self::Bool(value) => Ok(Some(*value)),
            _ => Err(Failure::invalid(name, format!("`{name}` must be true or false"))),
        }
    }

    /// # Errors
    /// The value of the field `name` is no whole number from 1 to 2^32 - 1.
    pub fn positive(&self, name: &'static str) -> Result<Option<u32>, Failure> {
        match self {
            Self::Null => Ok(None),
            Self::Unsigned(value @ 1..) if let Ok(value) = u32::try_from(*value) => Ok(Some(value)),
            _ => Err(Failure::invalid(name, format!("`{name}` must be an integer of at least 1"))),
        }
    }
}

/// A number that is written with a fraction but has none: to JSON, 2.0 and 2 are the same.
pub fn whole(number: f64) -> Option<u64> {
    let exact = (0.0..=f64::from(u32::MAX)).contains(&number) && number.fract() == 0.0;
    exact.then_some(number as u64)
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of an option")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Unsigned(value))
    }

    fn visit_i64<E>(self, _negative: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
        Ok(whole(number).map_or(Scalar::Other, Scalar::Unsigned))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}
