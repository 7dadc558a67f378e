//! Models by hub id on a machine without a network: from the cache, or a clear error soon.
//!
//! One test, because it sets this process's environment.
#![allow(clippy::unwrap_used)] // helpers of tests: a panic is the report

mod support;

use std::time::{Duration, Instant};

use forebay_worker::device::Device;
use forebay_worker::models::{self, LoadedModel, ModelError, ModelSource};
use support::copy;

fn load(source: &str) -> Result<LoadedModel, ModelError> {
    models::load(&ModelSource::parse(source), &Device::cpu(Some(1)).unwrap(), &|_| ())
}

#[test]
fn without_a_network_the_cache_serves_or_the_error_comes_soon() {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("hub/models--owner--tiny");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::create_dir_all(repository.join("snapshots")).unwrap();
    std::fs::write(repository.join("refs/main"), commit).unwrap();
    let model = copy("tiny-bert-embed");
    std::os::unix::fs::symlink(model.path(), repository.join("snapshots").join(commit)).unwrap();
    // SAFETY: the only test of this binary, and no other thread of it is running yet.
    unsafe {
        std::env::set_var("HF_HOME", home.path());
        std::env::remove_var("HF_HUB_CACHE");
        // A closed port of this machine stands for a hub that cannot be reached.
        std::env::set_var("HF_ENDPOINT", "http://127.0.0.1:9");
    }

    let cached = load("owner/tiny").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((cached.info.name.as_str(), cached.info.dimensions), ("owner/tiny", 64));
    assert!(cached.info.token.as_str().starts_with("owner-tiny-"));

    let start = Instant::now();
    let error = load("owner/other").err().unwrap().to_string();
    assert!(error.contains("owner/other is not in the cache") && error.contains("127.0.0.1:9"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    // SAFETY: as above; the threads of the calls before are done.
    unsafe { std::env::set_var("HF_HUB_OFFLINE", "1") };
    assert!(load("owner/tiny").is_ok());
    let error = load("owner/other").err().unwrap().to_string();
    assert!(error.contains("HF_HUB_OFFLINE is set") && error.lines().count() == 1, "{error}");
    let error = load("not a model id").err().unwrap().to_string();
    assert!(error.contains("owner/name"), "{error}");
}
