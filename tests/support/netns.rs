//! A network namespace with a cable to this host that can be cut. Needs root and `ip`; where they are not, there is none.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// Removed when it is dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    cable: String,
    /// This host, as seen from inside.
    pub host: Ipv4Addr,
    /// The inside, as seen from this host.
    pub guest: Ipv4Addr,
}

impl Netns {
    /// `None` where namespaces cannot be made.
    pub fn create() -> Option<Self> {
        let number = std::process::id() % 60_000;
        let name = format!("forebay{number}");
        let (cable, inner) = (format!("fb{number}a"), format!("fb{number}b"));
        let [high, low] = [(number / 250) as u8, (number % 250) as u8];
        let (host, guest) = (Ipv4Addr::new(10, high, low, 1), Ipv4Addr::new(10, high, low, 2));
        let netns = Self { name: name.clone(), cable: cable.clone(), host, guest };
        let made = ip(&["netns", "add", &name])
            && ip(&["link", "add", &cable, "type", "veth", "peer", "name", &inner, "netns", &name])
            && ip(&["addr", "add", &format!("{host}/30"), "dev", &cable])
            && ip(&["link", "set", &cable, "up"])
            && ip(&["-n", &name, "addr", "add", &format!("{guest}/30"), "dev", &inner])
            && ip(&["-n", &name, "link", "set", "lo", "up"])
            && ip(&["-n", &name, "link", "set", &inner, "up"]);
        // If anything failed, dropping it removes what was made.
        made.then_some(netns)
    }

    /// What runs a command inside: put it before the program. The program replaces it, so signals reach the program.
    pub fn exec(&self) -> [String; 4] {
        ["ip", "netns", "exec", &self.name].map(str::to_owned)
    }

    /// From now on packets in both directions are lost; connections do not notice by themselves.
    pub fn cut(&self) {
        assert!(ip(&["link", "set", &self.cable, "down"]));
    }

    pub fn mend(&self) {
        assert!(ip(&["link", "set", &self.cable, "up"]));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        ip(&["link", "del", &self.cable]);
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> bool {
    let status = Command::new("ip").args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
