//! The node's own name servers: its `resolv.conf`, read again when it has changed.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mesh_common::abi::NAME_SERVER_PORT;

/// How often the file is looked at, while somebody asks for it.
const LOOK: Duration = Duration::from_secs(1);

/// As many as resolvers take (resolv.conf(5), MAXNS).
const MOST_SERVERS: usize = 3;

/// What tells one version of the file from another: inode, size, and time of the change.
type Version = (u64, u64, i64, i64);

/// The servers of one file.
#[derive(Debug)]
pub(super) struct NodeServers {
    path: PathBuf,
    looked: Option<Instant>,
    version: Option<Version>,
    servers: Rc<[SocketAddr]>,
}

impl NodeServers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, looked: None, version: None, servers: Rc::default() }
    }

    /// The servers as the file names them now. While it cannot be read, those that it named before.
    pub(super) fn current(&mut self, now: Instant) -> Rc<[SocketAddr]> {
        if self.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK) {
            self.looked = Some(now);
            if let Err(error) = self.refresh() {
                tracing::warn!(path = %self.path.display(), %error, "the node's name servers cannot be read");
            }
        }
        Rc::clone(&self.servers)
    }

    fn refresh(&mut self) -> io::Result<()> {
        let meta = fs::metadata(&self.path)?;
        let version = (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
        if self.version == Some(version) {
            return Ok(());
        }
        let text = fs::read_to_string(&self.path)?;
        self.servers = servers(&text).collect();
        self.version = Some(version);
        if self.servers.is_empty() {
            tracing::warn!(path = %self.path.display(), "it names no name server that a pod could reach");
        }
        Ok(())
    }
}

/// The `nameserver` lines. Addresses of loopback or of a link are none for pods, whose loopback and links are others.
fn servers(text: &str) -> impl Iterator<Item = SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let address: IpAddr = (words.next()? == "nameserver").then(|| words.next())??.parse().ok()?;
        Some(address.to_canonical())
    });
    let usable = addresses.filter(|address| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    });
    usable.take(MOST_SERVERS).map(|address| SocketAddr::new(address, NAME_SERVER_PORT))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{NodeServers, servers};

    fn named(text: &str) -> Vec<String> {
        servers(text).map(|server| server.to_string()).collect()
    }

    #[test]
    fn lines_of_the_file() {
        let cases: [(&str, &[&str]); 8] = [
            ("nameserver 10.0.0.2\n", &["10.0.0.2:53"]),
            (
                "# nameserver 10.0.0.1\n;nameserver 10.0.0.1\nsearch a.b\n \tnameserver\t 10.0.0.2 # mine\noptions x",
                &["10.0.0.2:53"],
            ),
            ("nameserver fd00::1\nnameserver ::ffff:10.0.0.3", &["[fd00::1]:53", "10.0.0.3:53"]),
            (
                "nameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver fe80::1\nnameserver 0.0.0.0",
                &[],
            ),
            (
                "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4",
                &["1.1.1.1:53", "1.1.1.2:53", "1.1.1.3:53"],
            ),
            ("nameserver\nnameserver x\nnameservers 1.1.1.1\nNameserver 1.1.1.1\n", &[]),
            ("nameserver 1.1.1.1\r\n", &["1.1.1.1:53"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(named(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_change_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        let mut node = NodeServers::new(path.clone());
        let start = Instant::now();
        let mut now = |after: u64| {
            node.current(start + Duration::from_millis(after)).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(now(0), ["10.0.0.1:53"]);
        fs::write(&path, "nameserver 10.0.0.2\nnameserver 10.0.0.3\n").unwrap();
        assert_eq!(now(900), ["10.0.0.1:53"], "it is not looked at for every query");
        assert_eq!(now(1000), ["10.0.0.2:53", "10.0.0.3:53"]);
        fs::remove_file(&path).unwrap();
        assert_eq!(now(2000), ["10.0.0.2:53", "10.0.0.3:53"], "a missing file says nothing");
        fs::write(&path, "").unwrap();
        assert_eq!(now(3000), Vec::<String>::new());
    }

    #[test]
    fn a_file_that_was_never_there_names_none() {
        assert!(NodeServers::new("/nonexistent/resolv.conf".into()).current(Instant::now()).is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(nameserver|[ \t\n#;:.0-9a-f%]|\\PC){0,80}") {
            prop_assert!(servers(&text).count() <= 3);
        }
    }
}
