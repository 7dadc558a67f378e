//! Ports that belong to one test, across all test processes of this machine.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use nix::fcntl::{Flock, FlockArg};

/// Below the range from which clients get their ports: a client that reconnects to a port of that range while the server
/// is down may be given it, connect to itself, and keep the server out.
const RANGE: std::ops::Range<u16> = 12_000..20_000;

/// A loopback port, reserved until it is dropped, also while nobody listens on it.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: Flock<File>,
}

impl Port {
    pub fn reserve() -> Self {
        let folder = std::env::temp_dir().join("forebay-test-ports");
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        let start = std::process::id() as u16 % (RANGE.end - RANGE.start);
        let candidates = RANGE.cycle().skip(usize::from(start)).take(usize::from(RANGE.end - RANGE.start));
        candidates.filter_map(|number| Self::try_reserve(&folder, number)).next().expect("there is a free port")
    }

    fn try_reserve(folder: &std::path::Path, number: u16) -> Option<Self> {
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).open(folder.join(number.to_string())).ok()?;
        let reservation = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _reservation: reservation })
    }

    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
