//! Backing services that a process needs: named by the URL in a variable, or by
//! their address.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::{Host, Url};

use super::env::Env;

/// A service that must be reachable before a process starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Need {
    /// The variable that names it, if one does.
    pub variable: Option<String>,
    /// Where it may listen; one address that accepts is enough. Empty if it has no server, such as
    /// a file.
    pub addresses: Vec<Address>,
}

/// Where a service accepts connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// A host and a port of TCP.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// An entry of `needs`, as it stands in the file: it may hold a password.
#[derive(Clone, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct NeedText(pub String);

impl fmt::Debug for NeedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", redact(&self.0))
    }
}

/// Why a service can't be waited for. No error shows a value, which may hold a password.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages explain them")]
pub enum Error {
    #[error("`{0}`, which is not set (set it in `.env` or in the environment)")]
    NotSet(String),
    #[error("`{0}`, whose value names no address; expected `scheme://host:port`")]
    NoAddress(String),
    #[error(
        "`{0}`, which is neither a variable nor an address; expected `DATABASE_URL` or `tcp://host:port`"
    )]
    Neither(String),
}

/// The ports of schemes whose URLs often have none.
const DEFAULT_PORTS: [(&str, u16); 26] = [
    ("postgres", 5432),
    ("postgresql", 5432),
    ("postgis", 5432),
    ("mysql", 3306),
    ("mysql2", 3306),
    ("mariadb", 3306),
    ("redis", 6379),
    ("rediss", 6379),
    ("valkey", 6379),
    ("amqp", 5672),
    ("amqps", 5671),
    ("mongodb", 27017),
    ("http", 80),
    ("https", 443),
    ("kafka", 9092),
    ("memcached", 11211),
    ("memcache", 11211),
    ("smtp", 25),
    ("smtps", 465),
    ("elasticsearch", 9200),
    ("nats", 4222),
    ("ldap", 389),
    ("mqtt", 1883),
    ("mqtts", 8883),
    ("mssql", 1433),
    ("sqlserver", 1433),
];

/// Schemes of databases that are a file.
const FILE_SCHEMES: [&str; 4] = ["sqlite", "sqlite3", "duckdb", "file"];

/// Where `PostgreSQL` is without a host in its URL: in Debian, as it is built, and by TCP.
const POSTGRES_SOCKET_DIRS: [&str; 3] = ["/var/run/postgresql", "/tmp", "localhost"];

impl Need {
    /// The service that `text` names, in an environment.
    pub fn parse<'a>(
        text: &str,
        env: impl Fn(&OsStr) -> Option<&'a super::env::Variable>,
    ) -> Result<Self, Error> {
        if text.contains(':') {
            let addresses = parse_addresses(text).ok_or_else(|| Error::Neither(redact(text)))?;
            return Ok(Self { variable: None, addresses });
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if text.is_empty() || !text.bytes().all(is_name) {
            return Err(Error::Neither(redact(text)));
        }
        let value = env(OsStr::new(text)).map(|var| var.value.to_string_lossy().into_owned());
        let value = value.filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| Error::NotSet(text.to_owned()))?;
        let addresses = parse_addresses(&value).ok_or_else(|| Error::NoAddress(text.to_owned()))?;
        Ok(Self { variable: Some(text.to_owned()), addresses })
    }

    /// The same, from the environment of a process.
    pub(super) fn from_env(text: &str, shared: &Env, own: &Env) -> Result<Self, Error> {
        Self::parse(text, |key| own.get(key).or_else(|| shared.get(key)))
    }
}

/// The part of an address that is safe to print. A token may be anywhere in a URL, so only its
/// scheme is printed.
pub(super) fn redact(text: &str) -> String {
    let is_scheme = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => {
            let slashes = if rest.starts_with("//") { "//" } else { "" };
            format!("{scheme}:{slashes}…")
        }
        Some(_) => "…".to_owned(),
        None if text.contains(['@', '/', '?', '#', '=', '%']) => "…".to_owned(),
        None => text.to_owned(),
    }
}

/// Where the service of this URL accepts connections: `scheme://user:password@host:port/path`.
///
/// The `url` crate reads a URL with one host. Several hosts, a socket and a missing host
/// (libpq's connection URIs) are handled first, and credentials are cut off before anything else
/// is parsed.
fn parse_addresses(url: &str) -> Option<Vec<Address>> {
    let url = url.trim();
    let url = url.strip_prefix("jdbc:").unwrap_or(url);
    let (scheme, rest) = url.split_once(':')?;
    // `postgresql+asyncpg` names a driver, and `redis+unix` a transport.
    let mut words = scheme.split('+');
    let kind = words.next().unwrap_or_default().to_ascii_lowercase();
    if FILE_SCHEMES.contains(&kind.as_str()) {
        return Some(Vec::new());
    }
    if kind == "unix" || words.clone().any(|word| matches!(word, "unix" | "socket")) {
        return socket_address(&kind, rest).map(|socket| vec![socket]);
    }
    // A list of brokers may repeat the scheme before each.
    let rest = rest.strip_prefix("//")?.replace(&format!(",{scheme}://"), ",");
    if words.any(|word| word == "srv") {
        // The hosts are in a DNS record.
        return None;
    }
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if after.contains('@') {
        // A password has a character that should be encoded: the host is ambiguous.
        return None;
    }
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let parse = |host: &str| Url::parse(&format!("{kind}://{host}{after}")).ok();
    if !hosts.is_empty() {
        return hosts.split(',').map(|host| tcp_address(&parse(host)?, &kind)).collect();
    }
    // The host may stand in the query, and has a default for PostgreSQL.
    let url = parse("localhost")?;
    let value = |key: &str| {
        let mut pairs = url.query_pairs();
        pairs.find_map(|(name, value)| (name == key).then(|| value.into_owned()))
    };
    let port = match value("port") {
        Some(port) => port.parse().ok()?,
        None => default_port(&kind)?,
    };
    match value("host") {
        Some(host) => Some(vec![host_address(&host, &kind, port)?]),
        None if kind.starts_with("postg") => {
            POSTGRES_SOCKET_DIRS.iter().map(|host| host_address(host, &kind, port)).collect()
        }
        None => None,
    }
}

/// The path of a socket, optionally after credentials:
/// `redis+unix://:password@/run/redis.sock`.
fn socket_address(kind: &str, rest: &str) -> Option<Address> {
    let rest = rest.strip_prefix("//").unwrap_or(rest).split(['?', '#']).next()?;
    let (user, path) = rest.split_at(rest.find('/')?);
    // A `/` of the password would make the path begin in the middle of it.
    let is_path = if kind == "unix" { user.is_empty() } else { !path.contains('@') };
    let is_user = user.is_empty() || user.ends_with('@');
    (is_path && is_user && path.len() > 1).then(|| Address::Unix(percent_decode(path).into()))
}

fn default_port(kind: &str) -> Option<u16> {
    DEFAULT_PORTS.iter().find(|(name, _)| *name == kind).map(|(_, port)| *port)
}

fn tcp_address(url: &Url, kind: &str) -> Option<Address> {
    let port = url.port_or_known_default().or_else(|| default_port(kind))?;
    match url.host()? {
        Host::Domain(name) => host_address(percent_decode(name).to_str()?, kind, port),
        Host::Ipv4(ip) => host_address(&ip.to_string(), kind, port),
        Host::Ipv6(ip) => Some(Address::Tcp(ip.to_string(), port)).filter(|_| port > 0),
    }
}

/// A host that is a path is the folder of `PostgreSQL`'s socket.
fn host_address(host: &str, kind: &str, port: u16) -> Option<Address> {
    if host.starts_with('/') && kind.starts_with("postg") {
        return Some(Address::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{port}"))));
    }
    let is_host = |char: char| char.is_alphanumeric() || "-_.".contains(char);
    let valid = !host.is_empty() && host.chars().all(is_host) && port > 0;
    valid.then(|| Address::Tcp(host.to_owned(), port))
}

fn percent_decode(text: &str) -> OsString {
    OsString::from_vec(percent_decode_str(text).collect())
}

/// The variable and the address, never other parts of the value.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        match &self.variable {
            Some(variable) => write!(f, "`{variable}` ({})", all.join(", ")),
            None => f.write_str(&all.join(", ")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::env::Variable;
    use proptest::prelude::*;

    fn shown(url: &str) -> Option<String> {
        let var = Variable::from_ganger(url.to_owned());
        Need::parse("X", |_| Some(&var)).ok().map(|need| need.to_string())
    }

    #[test]
    fn url_names_its_addresses() {
        for (url, at) in [
            ("postgres://app:s3cret@db.internal/app", "db.internal:5432"),
            ("postgresql+asyncpg://u:p%2Fw@db/app", "db:5432"),
            ("mysql2://root@localhost:3307/app?pool=5", "localhost:3307"),
            ("redis://:pw@[::1]/0", "[::1]:6379"),
            ("rediss://cache.example:6380", "cache.example:6380"),
            ("amqp://guest:guest@rabbit//", "rabbit:5672"),
            ("mongodb://a:1,b:2/app?replicaSet=r", "a:1, b:2"),
            ("http://search", "search:80"),
            ("https://search", "search:443"),
            ("kafka://broker", "broker:9092"),
            ("memcached://m", "m:11211"),
            ("smtp://mail.example", "mail.example:25"),
            ("tcp://localhost:6379", "localhost:6379"),
            ("unix:///run/app.sock", "/run/app.sock"),
            ("postgres:///app?host=/run/postgresql", "/run/postgresql/.s.PGSQL.5432"),
            ("postgres://%2Frun%2Fpg:5433/app", "/run/pg/.s.PGSQL.5433"),
            (
                "postgres:///app",
                "/var/run/postgresql/.s.PGSQL.5432, /tmp/.s.PGSQL.5432, localhost:5432",
            ),
            ("jdbc:postgresql://db/app?password=s3cret", "db:5432"),
            ("redis+unix:///run/redis.sock?db=1", "/run/redis.sock"),
            ("redis+socket://:s3cret@/run/redis.sock", "/run/redis.sock"),
            ("unix:/run/a%20b", "/run/a b"),
            ("kafka+ssl://a,kafka+ssl://b:1", "a:9092, b:1"),
            ("mqtt://broker", "broker:1883"),
            ("redis://s3cret@cache", "cache:6379"),
            ("unknown://s3cret@host:1", "host:1"),
            ("tcp://s3cret@[fe80::1]:1", "[fe80::1]:1"),
            ("postgresql://s3cret@a,b:1/app", "a:5432, b:1"),
            ("unix:/run/a@b", "/run/a@b"),
            // A database in a file has no server.
            ("sqlite:///app.db", ""),
            ("sqlite3:db/app.sqlite3?password=s3cret", ""),
        ] {
            assert_eq!(shown(url), Some(format!("`X` ({at})")), "{url}");
        }
        for url in [
            "",
            "x",
            "tcp://host",
            "tcp://:1",
            "redis:///0",
            "tcp://h:0",
            "tcp://h:x",
            "mongodb+srv://cluster.example",
            "unix://",
            "redis://[::1",
            "tcp://a b:1",
            "postgres://u:p@ss/w@db/app",
            "postgres://app:4711?hunter2@127.0.0.1/db",
            "postgres://app:4711#hunter2@127.0.0.1/db",
            "redis+unix:///ss@/run/redis.sock",
            "redis+socket://:pa/ss@/run/redis.sock",
            "unix://user@/run/app.sock",
            "redis://user%3As3cret%40host",
            "redis://user%3As3cret",
        ] {
            assert_eq!(shown(url), None, "{url}");
        }
    }

    #[test]
    fn errors_show_no_secret() {
        let var = Variable::from_ganger("s3cret".to_owned());
        let error =
            |text: &str| Need::parse(text, |key| (key == "SET").then_some(&var)).unwrap_err();
        assert!(error("UNSET").to_string().starts_with("`UNSET`, which is not set"));
        assert!(error("SET").to_string().starts_with("`SET`, whose value names no address"));
        assert!(!error("SET").to_string().contains("s3cret"));
        for text in ["tcp://u:s3cret@host", "tcp://h:70000?password=s3cret"] {
            assert!(error(text).to_string().starts_with("`tcp://…`, which"), "{text}");
        }
        let pairs = error("host=db password=s3cret").to_string();
        assert!(pairs.starts_with("`…`, which is neither"), "{pairs}");
        assert!(error("a b").to_string().starts_with("`a b`, which is neither"));
        for (text, shown) in [
            ("redis://s3cret@host:x", "redis://…"),
            ("tcp://s3cret@host", "tcp://…"),
            ("slack://s3cret", "slack://…"),
            ("slack://T0/s3cret", "slack://…"),
            ("redis:s3cret", "redis:…"),
            ("redis+unix://s3cret/x", "redis+unix://…"),
            ("s3cret@host:1", "…"),
            ("s3cret@host", "…"),
            ("jdbc:s3cret", "jdbc:…"),
        ] {
            let error = error(text);
            let start = format!("`{shown}`, which is neither");
            assert!(error.to_string().starts_with(&start), "{text}: {error}");
            assert!(!format!("{error:?}").contains("s3cret"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(url in "\\PC{0,60}", tail in "[a-z:/@?=&%\\[\\],0-9]{0,40}") {
            let _ = (parse_addresses(&url), parse_addresses(&format!("postgres://{tail}")));
        }

        #[test]
        fn password_is_never_shown(
            user in "[a-z]{1,8}",
            before in "[0-9?#/@:=&%]{0,4}",
            after in "[0-9?#/@:=&%]{0,4}",
            host in "[a-z]{1,8}",
            port: u16,
        ) {
            for start in [format!("redis://{user}:"), "redis://".into(), format!("{user}://")] {
                let url = format!("{start}{before}SECRET{after}@{host}:{port}/x");
                prop_assert!(shown(&url).is_none_or(|shown| !shown.contains("SECRET")));
                let need = Need::parse(&url, |_| None);
                let debug = format!("{need:?}");
                prop_assert!(!debug.contains("SECRET"));
                prop_assert!(need.map_or_else(|error| !error.to_string().contains("SECRET"), |_| true));
            }
        }
    }
}
