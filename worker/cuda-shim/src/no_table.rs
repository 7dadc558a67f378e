//! There is no table for this processor.

use std::ffi::c_void;

pub(crate) const NAMES: [(&str, &str); 0] = [];

pub(crate) fn fill(_: &[Option<*mut c_void>]) {}
