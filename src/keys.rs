//! `forebay keys`: who may talk to the broker, and what each may say.
//!
//! A user per role, each with an nkey: the seed stays in a file of its own (mode 0600), the broker is only told the public
//! key. `permissions` is the table of what each user may do, `accounts` writes it down for nats-server.
//!
//! api.nk · worker.nk · aggregator.nk · reaper.nk · operator.nk · system.nk · store.key · accounts.conf
//!
//! Keys that exist stay: a second run only brings `accounts.conf` up to the program's table.

mod accounts;
mod permissions;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use forebay_shared::broker::not_for_everybody;
use nkeys::{KeyPair, KeyPairType};
use sha2::{Digest, Sha256};

pub use permissions::User;

#[derive(Args, Debug)]
pub struct KeysArgs {
    /// Folder for the keys and accounts.conf; created if it is missing.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Make new keys in place of those that are there: whoever has an old one is locked out once the broker reads the new
    /// accounts.conf. The key of the store is never replaced, because nothing could be read without it.
    #[arg(long)]
    force: bool,
}

pub fn run(args: &KeysArgs) -> anyhow::Result<ExitCode> {
    let keys = Keys::ensure(&args.dir, args.force)?;
    println!(
        "{}: a key for each of api, worker, aggregator, reaper, operator, system, and one for the store",
        args.dir.display()
    );
    println!("{}: include it in nats-server's configuration", keys.accounts_conf().display());
    Ok(ExitCode::SUCCESS)
}

/// A folder of keys.
#[derive(Debug)]
pub struct Keys {
    dir: PathBuf,
}

impl Keys {
    /// Makes what is missing, or everything but the store's key when `force`d, and writes `accounts.conf`.
    ///
    /// # Errors
    /// The folder cannot be written, or a file in it is no key.
    pub fn ensure(dir: &Path, force: bool) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write keys into {}; choose a folder that can be written", dir.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(cannot)?;
        let keys = Self { dir: dir.to_owned() };
        let mut users = Vec::with_capacity(User::ALL.len());
        for user in User::ALL {
            users.push((user, user_key(&keys.seed(user), force).with_context(cannot)?));
        }
        if !keys.store_key().exists() {
            write_secret(&keys.store_key(), &new_store_key()?).with_context(cannot)?;
        }
        let accounts = accounts::render(&users);
        let (path, fresh) = (keys.accounts_conf(), keys.dir.join("accounts.conf.new"));
        fs::write(&fresh, accounts).and_then(|()| fs::rename(&fresh, &path)).with_context(cannot)?;
        Ok(keys)
    }

    /// The file that `user` names with `--broker-credentials`.
    pub fn seed(&self, user: User) -> PathBuf {
        self.dir.join(format!("{}.nk", user.as_str()))
    }

    pub fn accounts_conf(&self) -> PathBuf {
        self.dir.join("accounts.conf")
    }

    fn store_key(&self) -> PathBuf {
        self.dir.join("store.key")
    }
}

/// The public key of the user whose seed is in `path`; a new one if there is none, or if `force`d.
fn user_key(path: &Path, force: bool) -> anyhow::Result<String> {
    if !force && path.exists() {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        return match KeyPair::from_seed(text.trim()) {
            Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok(pair.public_key()),
            _ => bail!("{} is no user's nkey seed; move it away, or replace all keys with --force", path.display()),
        };
    }
    let pair = KeyPair::new_user();
    write_secret(path, &pair.seed()?)?;
    Ok(pair.public_key())
}

/// 256 random bits. It begins with a letter, because nats-server reads what comes from its environment as a value of its
/// configuration, and would take some for numbers.
fn new_store_key() -> anyhow::Result<String> {
    let mut random = [0; 32];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    Ok(random.iter().fold("k".to_owned(), |key, byte| format!("{key}{byte:02x}")))
}

/// Reads a key for the store's encryption.
///
/// # Errors
/// Names `--store-key-file` when the file is missing, is open to everybody, or holds something that nats-server would not
/// take whole.
pub fn read_store_key(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| {
        format!("--store-key-file {}: cannot be read; make one with `forebay keys`", path.display())
    })?;
    not_for_everybody("--store-key-file", path)?;
    let key = text.trim();
    let plain = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric());
    if !plain || key.len() < 32 {
        bail!(
            "--store-key-file {}: is no key of at least 32 letters and digits that begins with a letter; make one with `forebay keys`",
            path.display()
        );
    }
    Ok(key.to_owned())
}

/// Tells keys of stores apart without telling anything of them.
pub fn fingerprint(store_key: &str) -> String {
    let digest = Sha256::new().chain_update("forebay store key ").chain_update(store_key).finalize();
    digest.iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// Replaces the file as a whole, so that nobody reads half a key, and never opens it to others.
fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let _left_over = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn seeds(keys: &Keys) -> Vec<String> {
        User::ALL.iter().map(|user| fs::read_to_string(keys.seed(*user)).unwrap()).collect()
    }

    #[test]
    fn keys_stay_until_they_are_replaced_on_purpose_and_the_stores_stays_even_then() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keys");
        let keys = Keys::ensure(&folder, false).unwrap();
        let (first, store) = (seeds(&keys), read_store_key(&keys.store_key()).unwrap());
        fs::remove_file(keys.accounts_conf()).unwrap();
        assert_eq!(seeds(&Keys::ensure(&folder, false).unwrap()), first);
        assert!(keys.accounts_conf().exists());
        assert!(seeds(&Keys::ensure(&folder, true).unwrap()).iter().all(|seed| !first.contains(seed)));
        assert_eq!(read_store_key(&keys.store_key()).unwrap(), store);
    }

    #[test]
    fn secrets_are_for_their_owner_and_not_in_the_accounts() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::ensure(dir.path(), false).unwrap();
        let accounts = fs::read_to_string(keys.accounts_conf()).unwrap();
        for path in User::ALL.iter().map(|user| keys.seed(*user)).chain([keys.store_key()]) {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!accounts.contains(fs::read_to_string(&path).unwrap().trim()));
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.nk");
        fs::write(&path, "hunter2").unwrap();
        let error = format!("{:#}", Keys::ensure(dir.path(), false).unwrap_err());
        assert!(error.contains("api.nk is no user's nkey seed") && !error.contains("hunter2"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "hunter2");
        fs::write(&path, "12345678901234567890123456789012").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_store_key(&path).unwrap_err().to_string().contains("is no key of at least"));
    }

    #[test]
    fn a_key_of_the_store_that_everybody_may_read_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = Keys::ensure(dir.path(), false).unwrap().store_key();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read_store_key(&path).unwrap_err().to_string();
        assert!(error.contains("--store-key-file") && error.contains("open to everybody"), "{error}");
    }
}
