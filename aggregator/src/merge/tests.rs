//! Properties over sequences of operations, then single rules.

mod model;
mod rules;
