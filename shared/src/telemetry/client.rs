//! The exporter's HTTP client: blocking, because it has a thread of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// How long a connection may take: a collector that is not there should be known soon.
const CONNECT: Duration = Duration::from_secs(2);
/// Most that is read of an answer: it only says whether spans were taken.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Client(Agent);

impl Client {
    /// `certificate`: a file of those that are trusted, instead of the public ones.
    pub(super) fn new(timeout: Duration, certificate: Option<&Path>) -> anyhow::Result<Self> {
        let mut config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .timeout_connect(Some(CONNECT.min(timeout)))
            .http_status_as_error(false);
        if let Some(file) = certificate {
            config = config.tls_config(TlsConfig::builder().root_certs(read(file)?).build());
        }
        Ok(Self(config.build().into()))
    }
}

fn read(file: &Path) -> anyhow::Result<RootCerts> {
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.with_context(|| format!("{} is no PEM", file.display()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(RootCerts::from(certificates))
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(&'a self, request: Request<Bytes>) -> BoxFuture<'b, Result<Response<Bytes>, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let answer = self.0.run(Request::from_parts(parts, &body[..]))?;
            let (parts, mut body) = answer.into_parts();
            let bytes = body.with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
            Ok(Response::from_parts(parts, bytes.into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let problem = || Client::new(CONNECT, Some(&file)).unwrap_err().to_string();
        assert!(problem().contains("cannot read") && problem().contains("ca.pem"));
        std::fs::write(&file, "nothing of that kind").unwrap();
        assert!(problem().contains("holds no certificate"), "{}", problem());
    }
}
