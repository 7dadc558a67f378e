//! The variables of OpenTelemetry that are read here, as settings like all others, and what they come to.
//!
//! The exporter and the queue in front of it read the rest themselves: headers, time-out, compression, sizes and delays.

use std::path::PathBuf;

use clap::Args;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use super::sampling::Sampling;
use crate::ids::{ProcessName, Role};

/// Where spans go, and of which requests. Nothing is recorded unless an endpoint is given.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Traces")]
pub struct TraceArgs {
    /// Collector that takes OTLP over HTTP (protobuf), e.g. http://localhost:4318; spans go to its /v1/traces. None: no traces.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The same for traces alone, with its whole path.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value_name = "URL")]
    pub otlp_traces_endpoint: Option<String>,
    /// File with the certificates (PEM) that the collector's own must be signed by, instead of the public ones.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_name = "FILE")]
    pub otlp_certificate: Option<String>,
    /// Which requests are traced: always_on, always_off, traceidratio, or one of these behind parentbased_, which leaves
    /// the decision to a caller that sends a traceparent [default: parentbased_always_on].
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_name = "NAME")]
    pub traces_sampler: Option<String>,
    /// Share of requests, from 0 to 1, for the samplers with a ratio [default: 1].
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO")]
    pub traces_sampler_arg: Option<String>,
    /// Name of the service in traces [default: forebay- and the role].
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    pub otel_service_name: Option<String>,
    /// More about this process in traces: key=value, separated by commas.
    #[arg(long, env = "OTEL_RESOURCE_ATTRIBUTES", value_name = "LIST")]
    pub otel_resource_attributes: Option<String>,
    /// true: no traces, whatever else is set.
    #[arg(long, env = "OTEL_SDK_DISABLED", value_name = "BOOL")]
    pub otel_sdk_disabled: Option<String>,
}

/// Spans are to be exported, like this.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The whole URL.
    pub(crate) endpoint: String,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) sampling: Sampling,
    pub(crate) resource: Resource,
}

impl TraceArgs {
    /// What is to be done, if anything, and what of the settings could not be used.
    pub(crate) fn plan(&self, role: Role, process: &ProcessName) -> (Option<Plan>, Vec<String>) {
        let disabled = given(&self.otel_sdk_disabled).is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let Some(endpoint) = self.endpoint().filter(|_| !disabled) else { return (None, Vec::new()) };
        let (sampling, problem) = Sampling::read(given(&self.traces_sampler), given(&self.traces_sampler_arg));
        let certificate = given(&self.otlp_certificate).map(PathBuf::from);
        let resource = self.resource(role, process);
        (Some(Plan { endpoint, certificate, sampling, resource }), problem.into_iter().collect())
    }

    fn endpoint(&self) -> Option<String> {
        given(&self.otlp_traces_endpoint)
            .map(str::to_owned)
            .or_else(|| given(&self.otlp_endpoint).map(|base| format!("{}/v1/traces", base.trim_end_matches('/'))))
    }

    /// Later ones win: the user's word over ours, except for the name of the process, which no two may share.
    fn resource(&self, role: Role, process: &ProcessName) -> Resource {
        let ours = [
            KeyValue::new("service.name", format!("forebay-{}", role.as_str())),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("forebay.role", role.as_str()),
            KeyValue::new("host.name", crate::settings::host_name()),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ];
        let theirs = given(&self.otel_resource_attributes).unwrap_or_default().split(',').filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some(KeyValue::new(key.trim().to_owned(), unescaped(value.trim())))
        });
        let name = given(&self.otel_service_name).map(|name| KeyValue::new("service.name", name.to_owned()));
        Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(ours)
            .with_attributes(theirs)
            .with_attributes(name)
            .with_attribute(KeyValue::new("service.instance.id", process.to_string()))
            .build()
    }
}

/// A variable that is set to nothing counts as not set.
fn given(setting: &Option<String>) -> Option<&str> {
    setting.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

/// Percent-encoded bytes as what they stand for; text that is no UTF-8 then stays as it is.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'%').then(|| tail.get(..2)).flatten();
        let byte = escaped.and_then(|pair| std::str::from_utf8(pair).ok()).and_then(crate::ids::parse_hex::<1>);
        bytes.push(byte.map_or(first, |[byte]| byte));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::*;

    fn args(endpoint: &str) -> TraceArgs {
        TraceArgs { otlp_endpoint: Some(endpoint.to_owned()), ..TraceArgs::default() }
    }

    fn plan(args: &TraceArgs) -> Option<Plan> {
        let (plan, problems) = args.plan(Role::Worker, &ProcessName::from("worker-7"));
        assert_eq!(problems, Vec::<String>::new());
        plan
    }

    fn attribute(plan: &Plan, key: &'static str) -> Option<String> {
        plan.resource.get(&Key::new(key)).map(|value| value.to_string())
    }

    #[test]
    fn without_an_endpoint_there_is_nothing_to_do() {
        for endpoint in ["", "  "] {
            assert!(plan(&args(endpoint)).is_none());
        }
        assert!(plan(&TraceArgs::default()).is_none());
    }

    #[test]
    fn the_general_endpoint_is_a_base_and_that_of_traces_a_whole_address() {
        let endpoint = |args: &TraceArgs| plan(args).unwrap().endpoint;
        assert_eq!(endpoint(&args("http://collector:4318")), "http://collector:4318/v1/traces");
        assert_eq!(endpoint(&args("http://collector:4318/otlp/")), "http://collector:4318/otlp/v1/traces");
        let both =
            TraceArgs { otlp_traces_endpoint: Some("http://other/spans".to_owned()), ..args("http://collector") };
        assert_eq!(endpoint(&both), "http://other/spans");
    }

    #[test]
    fn a_variable_that_is_set_to_nothing_is_not_set() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            traces: TraceArgs,
        }
        let flags = ["otlp-traces-endpoint", "otlp-certificate", "traces-sampler", "traces-sampler-arg"];
        let more = ["otel-service-name", "otel-resource-attributes", "otel-sdk-disabled"];
        let line = flags.iter().chain(&more).map(|flag| format!("--{flag}="));
        let line = ["program", "--otlp-endpoint=http://c"].map(str::to_owned).into_iter().chain(line);
        let Line { traces } = <Line as clap::Parser>::try_parse_from(line).unwrap();
        let plan = plan(&traces).unwrap();
        assert_eq!((plan.endpoint.as_str(), &plan.certificate), ("http://c/v1/traces", &None));
        assert_eq!(attribute(&plan, "service.name").as_deref(), Some("forebay-worker"));
    }

    #[test]
    fn disabled_is_disabled() {
        let disabled = |text: &str| TraceArgs { otel_sdk_disabled: Some(text.to_owned()), ..args("http://collector") };
        assert!(plan(&disabled("True")).is_none());
        assert!(plan(&disabled("false")).is_some() && plan(&disabled("1")).is_some());
    }

    #[test]
    fn a_process_is_named_by_its_role_until_somebody_names_it_otherwise() {
        let plain = plan(&args("http://c")).unwrap();
        assert_eq!(attribute(&plain, "service.name").as_deref(), Some("forebay-worker"));
        assert_eq!(attribute(&plain, "service.instance.id").as_deref(), Some("worker-7"));
        assert_eq!(attribute(&plain, "telemetry.sdk.language").as_deref(), Some("rust"));
        let listed =
            "service.name=listed, deployment.environment.name = a%20b ,service.instance.id=same-for-all,nonsense";
        let listed = TraceArgs { otel_resource_attributes: Some(listed.to_owned()), ..args("http://c") };
        let named = plan(&listed).unwrap();
        assert_eq!(attribute(&named, "service.name").as_deref(), Some("listed"));
        assert_eq!(attribute(&named, "deployment.environment.name").as_deref(), Some("a b"));
        assert_eq!(attribute(&named, "service.instance.id").as_deref(), Some("worker-7"), "never shared");
        let both = TraceArgs { otel_service_name: Some("mine".to_owned()), ..listed };
        assert_eq!(attribute(&plan(&both).unwrap(), "service.name").as_deref(), Some("mine"));
    }

    #[test]
    fn a_broken_escape_stays_as_it_is() {
        for text in ["100%", "%zz", "%f", "%ff"] {
            assert_eq!(unescaped(text), text);
        }
        assert_eq!(unescaped("%C3%A4%2C"), "ä,");
    }
}
