//! `forebay api-key`: keys for the file that `forebay api --api-keys` reads.
//!
//! A key is printed once and kept nowhere. What goes into the file is its hash, which is of no use to whoever reads it.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use forebay_api::tenants::keys::{KeyHash, new_key};

#[derive(Args, Debug)]
pub struct ApiKeyArgs {
    #[command(subcommand)]
    command: ApiKeyCommand,
}

#[derive(Subcommand, Debug)]
enum ApiKeyCommand {
    /// Print a new key, and the entry with its hash for the tenant's list of keys.
    New {
        /// Which key of the tenant this is, e.g. a month: for whoever takes it out of the file again.
        name: String,
    },
}

pub fn run(args: ApiKeyArgs) -> anyhow::Result<ExitCode> {
    let ApiKeyCommand::New { name } = args.command;
    let key = new_key();
    let entry = serde_json::json!({ "id": name, "sha256": KeyHash::of(key.as_bytes()).to_hex() });
    println!("{key}\n{entry}");
    eprintln!("The first line is the key: for the client, shown only now. The second goes into the tenant's `keys`.");
    Ok(ExitCode::SUCCESS)
}
