//! What a connection shows the broker, and how it knows the broker: credentials and certificates from files.
//!
//! Files are read once per connection attempt, before any network is used, so that a mistake is reported as one: with its
//! flag and what to do, never with what the file contains.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use async_nats::ConnectOptions;
use nkeys::{KeyPair, KeyPairType};

use crate::settings::BrokerAccessArgs;

/// A file of credentials or certificates that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {file}: {problem}; {remedy}")]
pub struct AccessError {
    flag: &'static str,
    file: String,
    problem: String,
    remedy: String,
}

const CREDENTIALS: &str = "--broker-credentials";
const CA: &str = "--broker-ca";
const CERT: &str = "--broker-cert";
const KEY: &str = "--broker-key";

/// Adds token, credentials and certificates to `options`.
///
/// # Errors
/// [`AccessError`] when a file is missing, readable by everybody though it is secret, or not what its flag asks for.
pub fn apply(mut options: ConnectOptions, access: &BrokerAccessArgs) -> Result<ConnectOptions, AccessError> {
    if let Some(token) = &access.broker_token {
        options = options.token(token.reveal().to_owned());
    }
    if let Some(path) = &access.broker_credentials {
        options = credentials(options, path)?;
    }
    if let Some(path) = &access.broker_ca {
        pem(CA, path, "CERTIFICATE")?;
        options = options.add_root_certificates(path.clone()).require_tls(true);
    }
    match (&access.broker_cert, &access.broker_key) {
        (Some(cert), Some(key)) => {
            pem(CERT, cert, "CERTIFICATE")?;
            not_for_everybody(KEY, key)?;
            pem(KEY, key, "PRIVATE KEY")?;
            options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        (None, None) => {}
        (Some(path), None) => return Err(alone(CERT, path, KEY)),
        (None, Some(path)) => return Err(alone(KEY, path, CERT)),
    }
    Ok(options)
}

/// The public key of the user that the credentials are for.
///
/// # Errors
/// As [`apply`].
pub fn public_key(access: &BrokerAccessArgs) -> Result<Option<String>, AccessError> {
    let Some(path) = &access.broker_credentials else { return Ok(None) };
    let text = read(CREDENTIALS, path)?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    Ok(seed.and_then(|seed| KeyPair::from_seed(seed).ok()).map(|pair| pair.public_key()))
}

/// A seed as `forebay keys` writes it, or a `.creds` file of a JWT and a seed.
fn credentials(options: ConnectOptions, path: &Path) -> Result<ConnectOptions, AccessError> {
    not_for_everybody(CREDENTIALS, path)?;
    let text = read(CREDENTIALS, path)?;
    let wrong = |problem: &str| {
        let remedy = "name a file with a user's nkey seed (SU…), as `forebay keys` writes it, or a .creds file";
        Err(AccessError {
            flag: CREDENTIALS,
            file: path.display().to_string(),
            problem: problem.to_owned(),
            remedy: remedy.to_owned(),
        })
    };
    if text.contains("BEGIN NATS USER JWT") {
        // The cause is not passed on: it may quote the file.
        return options.credentials(&text).or_else(|_| wrong("looks like a .creds file and cannot be read as one"));
    }
    let seed = text.trim();
    match KeyPair::from_seed(seed) {
        Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok(options.nkey(seed.to_owned())),
        Ok(_) => wrong("is the seed of something other than a user"),
        Err(_) => wrong("is no nkey seed"),
    }
}

fn alone(flag: &'static str, path: &Path, other: &str) -> AccessError {
    AccessError {
        flag,
        file: path.display().to_string(),
        problem: "a certificate and its key go together".to_owned(),
        remedy: format!("set {other} too, or neither"),
    }
}

fn read(flag: &'static str, path: &Path) -> Result<String, AccessError> {
    fs::read_to_string(path).map_err(|error| cannot_read(flag, path, &error))
}

fn cannot_read(flag: &'static str, path: &Path, error: &io::Error) -> AccessError {
    let (problem, remedy) = match error.kind() {
        io::ErrorKind::NotFound => ("no such file".to_owned(), "correct the path"),
        io::ErrorKind::PermissionDenied => {
            ("may not be read by this user".to_owned(), "make it readable for the user that runs forebay")
        }
        io::ErrorKind::InvalidData => ("is not text".to_owned(), "name a text file"),
        _ => (error.to_string(), "correct the path"),
    };
    AccessError { flag, file: path.display().to_string(), problem, remedy: remedy.to_owned() }
}

/// Secrets that everybody on the machine can read are none.
///
/// # Errors
/// Names the flag, the file and its mode.
pub fn not_for_everybody(flag: &'static str, path: &Path) -> Result<(), AccessError> {
    let mode = fs::metadata(path).map_err(|error| cannot_read(flag, path, &error))?.permissions().mode();
    if mode & 0o007 == 0 {
        return Ok(());
    }
    Err(AccessError {
        flag,
        file: path.display().to_string(),
        problem: format!("is a secret and open to everybody (mode {:03o})", mode & 0o777),
        remedy: "chmod 600 it".to_owned(),
    })
}

fn pem(flag: &'static str, path: &Path, holds: &'static str) -> Result<(), AccessError> {
    let text = read(flag, path)?;
    let marked =
        text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{holds}-----")));
    if marked {
        return Ok(());
    }
    Err(AccessError {
        flag,
        file: path.display().to_string(),
        problem: format!("holds no {}", holds.to_lowercase()),
        remedy: format!("name a PEM file with `-----BEGIN {holds}-----`"),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn file(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn with_credentials(path: PathBuf) -> Result<(), String> {
        let access = BrokerAccessArgs { broker_credentials: Some(path), ..BrokerAccessArgs::default() };
        apply(ConnectOptions::new(), &access).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_user_seed_is_taken_whatever_white_space_surrounds_it() {
        let dir = folder();
        let seed = KeyPair::new_user().seed().unwrap();
        with_credentials(file(dir.path(), "api.nk", &format!("\n{seed}\n"), 0o600)).unwrap();
        let path = file(dir.path(), "group.nk", &seed, 0o440);
        with_credentials(path.clone()).unwrap();
        let access = BrokerAccessArgs { broker_credentials: Some(path), ..BrokerAccessArgs::default() };
        assert_eq!(public_key(&access).unwrap(), Some(KeyPair::from_seed(&seed).unwrap().public_key()));
    }

    #[test]
    fn a_file_of_credentials_that_cannot_be_used_is_named_with_its_flag_and_never_quoted() {
        let dir = folder();
        let account = KeyPair::new_account().seed().unwrap();
        let user = KeyPair::new_user().seed().unwrap();
        for (path, expected) in [
            (dir.path().join("missing"), "no such file"),
            (file(dir.path(), "account", &account, 0o600), "something other than a user"),
            (file(dir.path(), "broken", &user[..50], 0o600), "is no nkey seed"),
            (file(dir.path(), "open", &user, 0o644), "chmod 600"),
            (file(dir.path(), "creds", "-----BEGIN NATS USER JWT-----\nhunter2", 0o600), ".creds"),
        ] {
            let error = with_credentials(path.clone()).unwrap_err();
            assert!(error.starts_with(&format!("--broker-credentials {}", path.display())), "{error}");
            assert!(error.contains(expected), "{error}");
            for secret in [&account[..20], &user[..20], "hunter2"] {
                assert!(!error.contains(secret), "{error}");
            }
        }
    }

    #[test]
    fn certificates_are_looked_at_before_they_are_used() {
        let dir = folder();
        let cert = file(dir.path(), "cert.pem", "-----BEGIN CERTIFICATE-----\n", 0o644);
        let key = file(dir.path(), "key.pem", "-----BEGIN EC PRIVATE KEY-----\n", 0o600);
        let error = |access: BrokerAccessArgs| apply(ConnectOptions::new(), &access).map(drop).unwrap_err().to_string();
        let none = BrokerAccessArgs::default;
        let swapped = error(BrokerAccessArgs { broker_ca: Some(key.clone()), ..none() });
        assert!(swapped.contains("--broker-ca") && swapped.contains("holds no certificate"), "{swapped}");
        let lone = error(BrokerAccessArgs { broker_cert: Some(cert.clone()), ..none() });
        assert!(lone.contains("set --broker-key too"), "{lone}");
        let both = BrokerAccessArgs { broker_cert: Some(cert.clone()), broker_key: Some(key), ..none() };
        apply(ConnectOptions::new(), &both).map(drop).unwrap();
        let wrong_key = error(BrokerAccessArgs { broker_cert: Some(cert.clone()), broker_key: Some(cert), ..none() });
        assert!(wrong_key.contains("--broker-key"), "{wrong_key}");
    }
}
