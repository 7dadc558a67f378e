//! Which traces are recorded. Pure: a decision from names and numbers.
//!
//! Names, arguments and defaults of <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>. What
//! cannot be used is not an error there but a warning and the default.

use std::fmt;

use opentelemetry::TraceId;
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample};

use crate::trace::TraceContext;

/// `OTEL_TRACES_SAMPLER` and its argument, understood.
#[derive(Debug, Clone)]
pub(crate) struct Sampling {
    /// A trace that came with the request is recorded if its sender records it.
    follows_parent: bool,
    /// All others.
    roots: Sampler,
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", if self.follows_parent { "parent, else " } else { "" }, self.roots)
    }
}

impl Sampling {
    /// Reads the two settings; with them what was wrong, in words, if anything was.
    pub(crate) fn read(name: Option<&str>, argument: Option<&str>) -> (Self, Option<String>) {
        let name = name.unwrap_or("parentbased_always_on");
        let (follows_parent, base) = match name.strip_prefix("parentbased_") {
            Some(base) => (true, base),
            None => (false, name),
        };
        let ratio = || match argument.map(str::parse::<f64>) {
            None => (1.0, None),
            Some(Ok(ratio)) if (0.0..=1.0).contains(&ratio) => (ratio, None),
            Some(_) => (1.0, Some("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1; using 1".to_owned())),
        };
        let (roots, problem) = match base {
            "always_on" => (Sampler::AlwaysOn, None),
            "always_off" => (Sampler::AlwaysOff, None),
            "traceidratio" => {
                let (ratio, problem) = ratio();
                (Sampler::TraceIdRatioBased(ratio), problem)
            }
            _ => {
                let problem = format!("OTEL_TRACES_SAMPLER: '{name}' is not known here; using parentbased_always_on");
                return (Self { follows_parent: true, roots: Sampler::AlwaysOn }, Some(problem));
            }
        };
        (Self { follows_parent, roots }, problem)
    }

    /// Whether `own` is recorded, a span of ours below `parent`.
    pub(crate) fn samples(&self, own: &TraceContext, parent: Option<&TraceContext>) -> bool {
        if let (true, Some(parent)) = (self.follows_parent, parent) {
            return parent.is_sampled();
        }
        let trace = TraceId::from_bytes(own.trace_id_bytes());
        let decided = self.roots.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
        decided.decision == SamplingDecision::RecordAndSample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(name: &str, argument: Option<&str>) -> Sampling {
        let (sampling, problem) = Sampling::read(Some(name), argument);
        assert_eq!(problem, None, "{name} {argument:?}");
        sampling
    }

    /// Share of a thousand new traces that are recorded.
    fn share(sampling: &Sampling) -> f64 {
        let sampled = (0..1000).filter(|_| sampling.samples(&TraceContext::root(), None)).count();
        sampled as f64 / 1000.0
    }

    #[test]
    fn nothing_said_means_every_trace_as_its_sender_decided() {
        let (default, problem) = Sampling::read(None, None);
        assert_eq!(problem, None);
        assert_eq!(share(&default), 1.0);
        let parent = TraceContext::root();
        assert!(!default.samples(&parent.child(), Some(&parent)));
        let parent = parent.with_sampled(true);
        assert!(default.samples(&parent.child(), Some(&parent)));
    }

    #[test]
    fn a_ratio_is_about_the_share_of_traces_and_the_same_for_all_spans_of_one() {
        let tenth = sampling("parentbased_traceidratio", Some("0.1"));
        assert!((0.05..0.16).contains(&share(&tenth)), "{}", share(&tenth));
        let trace = TraceContext::root();
        assert_eq!(tenth.samples(&trace, None), tenth.samples(&trace.child(), None));
        assert_eq!(share(&sampling("traceidratio", Some("0"))), 0.0);
        assert_eq!(share(&sampling("traceidratio", None)), 1.0);
    }

    #[test]
    fn only_samplers_that_follow_their_parent_look_at_it() {
        let parent = TraceContext::root().with_sampled(true);
        let samples = |name| sampling(name, None).samples(&parent.child(), Some(&parent));
        assert!(samples("parentbased_always_off") && samples("always_on") && !samples("always_off"));
        let unsampled = parent.with_sampled(false);
        assert!(sampling("always_on", None).samples(&unsampled.child(), Some(&unsampled)));
    }

    #[test]
    fn what_cannot_be_used_is_said_and_replaced() {
        for (name, argument, part) in [
            ("jaeger_remote", None, "'jaeger_remote' is not known"),
            ("parentbased_traceidratio", Some("1 %"), "from 0 to 1"),
            ("traceidratio", Some("2"), "from 0 to 1"),
        ] {
            let (sampling, problem) = Sampling::read(Some(name), argument);
            assert!(problem.as_ref().is_some_and(|problem| problem.contains(part)), "{problem:?}");
            assert_eq!(share(&sampling), 1.0);
        }
    }
}
