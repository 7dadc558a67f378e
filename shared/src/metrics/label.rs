//! What may stand in a label: values known in advance, or names that configuration bounds.

use std::borrow::Cow;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use rustc_hash::FxHashSet;

use crate::ids::{Lane, ModelName, ProcessName, TenantName};

/// The label value of every model that nobody registered.
pub const UNKNOWN_MODEL: &str = "unknown";

/// The label value of every tenant that is not configured.
const UNKNOWN_TENANT: &str = "unknown";

/// The models and tenants that may appear in a label.
#[derive(Debug, Default)]
pub struct Models {
    models: RwLock<FxHashSet<ModelName>>,
    tenants: RwLock<FxHashSet<TenantName>>,
    any_tenant: AtomicBool,
}

impl Models {
    pub(super) fn insert(&self, model: &ModelName) {
        self.models.write().unwrap_or_else(PoisonError::into_inner).insert(model.clone());
    }

    pub fn contains(&self, model: &ModelName) -> bool {
        self.models.read().unwrap_or_else(PoisonError::into_inner).contains(model)
    }

    pub(super) fn insert_tenant(&self, tenant: &TenantName) {
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).insert(tenant.clone());
        self.any_tenant.store(true, Ordering::Relaxed);
    }

    pub(super) fn any_tenant(&self) -> bool {
        self.any_tenant.load(Ordering::Relaxed)
    }

    fn contains_tenant(&self, tenant: &TenantName) -> bool {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).contains(tenant)
    }
}

/// One label's type.
pub trait Label: Clone + Eq + Hash + Send + Sync + 'static {
    /// As it is written in the exposition.
    fn text(&self) -> Cow<'_, str>;

    /// Every value the label can take for `model`, or `None` where that is only known when it happens.
    fn all(model: Option<&ModelName>) -> Option<Vec<Self>>;

    /// For the reference page.
    fn domain() -> String;

    /// The value that is really used: a model that is not registered becomes [`UNKNOWN_MODEL`].
    fn bounded(&self, _models: &Models) -> Self {
        self.clone()
    }
}

impl Label for ModelName {
    fn text(&self) -> Cow<'_, str> {
        self.as_str().into()
    }

    fn all(model: Option<&ModelName>) -> Option<Vec<Self>> {
        model.map(|model| vec![model.clone()])
    }

    fn domain() -> String {
        "a registered model, else `unknown`".into()
    }

    fn bounded(&self, models: &Models) -> Self {
        if models.contains(self) { self.clone() } else { UNKNOWN_MODEL.into() }
    }
}

impl Label for Lane {
    fn text(&self) -> Cow<'_, str> {
        self.as_str().into()
    }

    fn all(_: Option<&ModelName>) -> Option<Vec<Self>> {
        Some(Self::ALL.to_vec())
    }

    fn domain() -> String {
        list(Self::ALL.iter().map(|lane| lane.as_str()))
    }
}

impl Label for ProcessName {
    fn text(&self) -> Cow<'_, str> {
        self.as_str().into()
    }

    fn all(_: Option<&ModelName>) -> Option<Vec<Self>> {
        None
    }

    fn domain() -> String {
        "a process name, capped".into()
    }
}

impl Label for TenantName {
    fn text(&self) -> Cow<'_, str> {
        self.as_str().into()
    }

    fn all(_: Option<&ModelName>) -> Option<Vec<Self>> {
        None
    }

    fn domain() -> String {
        "a configured tenant, else `unknown`".into()
    }

    fn bounded(&self, models: &Models) -> Self {
        if models.contains_tenant(self) { self.clone() } else { UNKNOWN_TENANT.into() }
    }
}

pub(super) fn list<'a>(values: impl Iterator<Item = &'a str>) -> String {
    values.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
}

/// The labels of one family, as a tuple.
pub trait LabelSet: Clone + Eq + Hash + Send + Sync + 'static {
    fn texts(&self) -> Vec<Cow<'_, str>>;

    /// Every combination that is bounded in advance, for `model` if the set names one; `None` if some label is open, or
    /// if the set names a model and none is given, or the other way round.
    fn combinations(model: Option<&ModelName>) -> Option<Vec<Self>>;

    fn bounded(&self, models: &Models) -> Self;
}

macro_rules! label_set {
    ($($label:ident . $index:tt),*) => {
        impl<$($label: Label),*> LabelSet for ($($label,)*) {
            fn texts(&self) -> Vec<Cow<'_, str>> {
                vec![$(self.$index.text()),*]
            }

            #[allow(unused_mut, unused_variables, clippy::allow_attributes)]
            fn combinations(model: Option<&ModelName>) -> Option<Vec<Self>> {
                let names_model = false $(|| $label::all(None).is_none())*;
                if names_model != model.is_some() {
                    return None;
                }
                label_set!(@product model, (), $($label),*)
            }

            #[allow(unused_variables, clippy::unused_unit, clippy::allow_attributes)]
            fn bounded(&self, models: &Models) -> Self {
                ($(self.$index.bounded(models),)*)
            }
        }
    };
    (@product $model:ident, (),) => { Some(vec![()]) };
    (@product $model:ident, (), $a:ident) => {
        Some($a::all($model)?.into_iter().map(|a| (a,)).collect())
    };
    (@product $model:ident, (), $a:ident, $b:ident) => {{
        let mut out = Vec::new();
        for a in $a::all($model)? { for b in $b::all($model)? { out.push((a.clone(), b)); } }
        Some(out)
    }};
    (@product $model:ident, (), $a:ident, $b:ident, $c:ident) => {{
        let mut out = Vec::new();
        for a in $a::all($model)? { for b in $b::all($model)? { for c in $c::all($model)? {
            out.push((a.clone(), b.clone(), c));
        } } }
        Some(out)
    }};
    // Wider sets describe something (`model_info`); nothing counts in them, so nothing starts at 0.
    (@product $model:ident, (), $($more:ident),+) => { None };
}

label_set!();
label_set!(A.0);
label_set!(A.0, B.1);
label_set!(A.0, B.1, C.2);
label_set!(A.0, B.1, C.2, D.3);
label_set!(A.0, B.1, C.2, D.3, E.4);
