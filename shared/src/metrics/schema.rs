//! The form of a declaration, and the macro that turns a table of them into a struct of typed handles.

use serde::{Deserialize, Serialize};

use super::buckets;
use crate::ids::Role;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// How the fleet's value follows from those of its processes. Counters and histograms are always summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    Sum,
    Max,
    Min,
    Mean,
    /// One series per process with the additional label `process`, up to a cap.
    PerProcess,
    /// Computed by the aggregator that serves it; no process reports it.
    Own,
}

impl Merge {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Max => "max",
            Self::Min => "min",
            Self::Mean => "mean",
            Self::PerProcess => "per process",
            Self::Own => "computed here",
        }
    }
}

/// One label of a declaration.
#[derive(Debug, Clone, Copy)]
pub struct LabelInfo {
    pub name: &'static str,
    /// What it may hold, for the reference page.
    pub domain: fn() -> String,
}

/// One declaration.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    pub stem: &'static str,
    help: &'static str,
    pub kind: Kind,
    pub labels: &'static [LabelInfo],
    pub buckets: &'static [f64],
    pub merge: Merge,
}

impl Descriptor {
    pub(super) const fn new(
        stem: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &'static [LabelInfo],
        buckets: &'static [f64],
        merge: Merge,
    ) -> Self {
        Self { stem, help, kind, labels, buckets, merge }
    }

    pub fn help(&self) -> &'static str {
        self.help.trim()
    }

    /// Identifies the buckets; 0 if this is no histogram.
    pub fn schema_id(&self) -> u32 {
        buckets::schema_id(self.buckets)
    }

    /// The name on the page of a process of this role.
    pub fn process_name(&self, role: Role) -> String {
        match role {
            Role::Api => format!("forebay_api_{}", self.stem),
            Role::Worker => format!("forebay_worker_{}", self.stem),
            Role::Aggregator => self.fleet_name(),
        }
    }

    /// The name on an aggregator's page.
    pub fn fleet_name(&self) -> String {
        fleet_name(self.stem)
    }
}

/// The fleet's name of a stem.
pub fn fleet_name(stem: &str) -> String {
    format!("forebay_{stem}")
}

/// The bounds of a declaration: the named constant, or none.
pub(super) const fn bounds(named: &'static [&'static [f64]]) -> &'static [f64] {
    match named {
        [bounds] => bounds,
        _ => &[],
    }
}

/// Declares a table: doc comment = help, field = stem.
macro_rules! metrics {
    (
        $(#[$meta:meta])*
        pub struct $name:ident for $role:ident {
            $(
                $(#[doc = $help:literal])+
                $stem:ident: $kind:ident { $($label:ident: $type:ty),* $(,)? } $(buckets $buckets:ident)? merge $merge:ident
            ),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone)]
        pub struct $name {
            $($(#[doc = $help])+ pub $stem: $crate::metrics::Family<$crate::metrics::$kind, ($($type,)*)>,)*
            registry: std::sync::Arc<$crate::metrics::Registry>,
        }

        impl $name {
            pub const ROLE: $crate::ids::Role = $crate::ids::Role::$role;

            pub const TABLE: &'static [$crate::metrics::Descriptor] = &[$(
                $crate::metrics::Descriptor::new(
                    stringify!($stem),
                    concat!($($help),+),
                    <$crate::metrics::$kind as $crate::metrics::Instrument>::KIND,
                    &[$($crate::metrics::schema::LabelInfo {
                        name: stringify!($label),
                        domain: <$type as $crate::metrics::Label>::domain,
                    }),*],
                    $crate::metrics::schema::bounds(&[$($crate::metrics::buckets::$buckets)?]),
                    $crate::metrics::Merge::$merge,
                )
            ),*];

            /// All families, registered on a registry of their own beside the standard `process_*` metrics.
            #[allow(clippy::new_without_default, reason = "this reads /proc and registers; not a plain value")]
            pub fn new() -> Self {
                let registry = $crate::metrics::Registry::new(Self::ROLE);
                let mut table = Self::TABLE.iter();
                // Fields are initialised in the order of the table.
                let this = Self {
                    $($stem: $crate::metrics::Family::new(
                        table.next().expect("one descriptor per field"), &registry
                    ),)*
                    registry,
                };
                $(this.$stem.start_at_zero(None);)*
                this
            }

            /// Lets `model` appear in labels, and starts all its counters and histograms at 0. Twice is harmless.
            pub fn register_model(&self, model: &$crate::ids::ModelName) {
                self.registry.admit_model(model);
                $(this_start(&self.$stem, model);)*
                fn this_start<M: $crate::metrics::Instrument, L: $crate::metrics::LabelSet>(
                    family: &$crate::metrics::Family<M, L>,
                    model: &$crate::ids::ModelName,
                ) {
                    family.start_at_zero(Some(model));
                }
            }

            /// Lets `tenant` appear in labels: only names from configuration do. Twice is harmless.
            pub fn register_tenant(&self, tenant: &$crate::ids::TenantName) {
                self.registry.admit_tenant(tenant);
            }

            pub fn registry(&self) -> &std::sync::Arc<$crate::metrics::Registry> {
                &self.registry
            }

            /// The page of this process in the Prometheus text format.
            pub fn render(&self) -> String {
                self.registry.render()
            }
        }
    };
}
pub(super) use metrics;
