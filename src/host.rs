//! What this machine has to give: ports, disk, open files.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Ports from here on are handed out when nobody named one.
const FIRST_PORT: u16 = 20_000;
/// Where Linux begins to give out ports to outgoing connections, unless told otherwise.
const EPHEMERAL_FIRST: u16 = 32_768;

/// Loopback ports that nobody listens on, all different.
///
/// They lie below the range of outgoing connections: a client that reconnects to a port of that range while its server is
/// being restarted can be given that very port as its own, connect to itself, and keep the server out for good.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let end = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .filter(|first| *first > FIRST_PORT + 1000)
        .unwrap_or(EPHEMERAL_FIRST);
    // The standard library's only source of randomness: two programs that start together begin at different ports.
    let random = std::hash::RandomState::new().build_hasher().finish();
    let span = end - FIRST_PORT;
    let offset = (random % u64::from(span)) as u16;
    let candidates = (0..span).map(|i| FIRST_PORT + ((u32::from(offset) + u32::from(i)) % u32::from(span)) as u16);
    let held: Vec<(u16, TcpListener)> = candidates
        .filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|listener| (port, listener)))
        .take(count)
        .collect();
    if held.len() < count {
        bail!(
            "only {} of {count} ports between {FIRST_PORT} and {end} are free; stop something that listens",
            held.len()
        );
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

/// Whether a server could listen on `addr`; port 0 always can.
pub fn port_is_free(addr: SocketAddr) -> io::Result<bool> {
    match TcpListener::bind(addr) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where a program on this machine reaches a server that listens on `addr`.
pub fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), addr.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), addr.port()),
        _ => addr,
    }
}

/// Bytes that this user may still write to the disk under `path`, or under its nearest existing parent.
pub fn disk_free_bytes(path: &Path) -> anyhow::Result<u64> {
    let absolute = std::path::absolute(path)?;
    let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = nix::sys::statvfs::statvfs(existing)
        .with_context(|| format!("cannot ask for the disk of {}", path.display()))?;
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

/// Whether the folder `path`, or its nearest existing parent, can be written to by this user.
pub fn is_writable(path: &Path) -> bool {
    let Ok(absolute) = std::path::absolute(path) else { return false };
    let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    existing.is_dir() && nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The most files that this process may open after [`raise_open_file_limit`].
pub fn open_file_limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(_, hard)| hard)
}

/// Every connection is an open file; shells often allow 1024 where the system would allow far more.
pub fn raise_open_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "cannot raise the limit of open files");
    }
}

/// `12.3 GB`
pub fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_free_and_differ() {
        let mut ports = free_ports(8).unwrap();
        assert!(ports.iter().all(|port| port_is_free(([127, 0, 0, 1], *port).into()).unwrap()));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }

    #[test]
    fn a_port_in_use_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!port_is_free(listener.local_addr().unwrap()).unwrap());
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet_is_its_parents() {
        let here = disk_free_bytes(Path::new("/")).unwrap();
        assert!(here > 0);
        assert!(disk_free_bytes(Path::new("/no/such/folder")).unwrap() > 0);
    }

    #[test]
    fn what_is_no_folder_cannot_hold_a_store() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_writable(&dir.path().join("store")));
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(!is_writable(&dir.path().join("file")));
    }

    #[test]
    fn a_server_on_all_addresses_is_reached_over_loopback() {
        assert_eq!(reachable("0.0.0.0:80".parse().unwrap()), "127.0.0.1:80".parse().unwrap());
        assert_eq!(reachable("[::]:80".parse().unwrap()), "[::1]:80".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:80".parse().unwrap()), "10.0.0.1:80".parse().unwrap());
    }
}
