//! Backing services that a process needs: named by the URL in a variable, or by
//! their address.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use super::env::Env;

/// A service that is waited for before a process starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Need {
    /// The variable that names it, if one does.
    pub variable: Option<String>,
    /// Where it may be; one that accepts is enough. None: it is a file, say, for which
    /// nobody has to be there.
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

/// Why it can't be waited for. None of these shows a value: it may hold a password.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
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
const PORTS: [(&str, u16); 26] = [
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
const FILES: [&str; 4] = ["sqlite", "sqlite3", "duckdb", "file"];

/// Where `PostgreSQL` is when nobody says so: in Debian, as it is built, and by TCP.
const POSTGRES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

impl Need {
    /// What `text` names, in the environment `env`.
    pub fn parse<'a>(
        text: &str,
        env: impl Fn(&OsStr) -> Option<&'a super::env::Var>,
    ) -> Result<Self, Error> {
        if text.contains(':') {
            let addresses = addresses(text).ok_or_else(|| Error::Neither(without_secret(text)))?;
            return Ok(Self { variable: None, addresses });
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if text.is_empty() || !text.bytes().all(is_name) {
            return Err(Error::Neither(without_secret(text)));
        }
        let value = env(OsStr::new(text)).map(|var| var.value.to_string_lossy().into_owned());
        let value = value.filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| Error::NotSet(text.to_owned()))?;
        let addresses = addresses(&value).ok_or_else(|| Error::NoAddress(text.to_owned()))?;
        Ok(Self { variable: Some(text.to_owned()), addresses })
    }

    /// The same, from the environment of a process.
    pub(super) fn of(text: &str, shared: &Env, own: &Env) -> Result<Self, Error> {
        Self::parse(text, |key| own.get(key).or_else(|| shared.get(key)))
    }
}

/// As much of it as tells which one is meant.
fn without_secret(text: &str) -> String {
    let (before, after) = match text.split_once("://") {
        Some((before, after)) => (format!("{before}://"), after),
        None => (String::new(), text),
    };
    let hidden = after.contains(['@', '?', '#', '=']);
    if hidden { format!("{before}…") } else { text.to_owned() }
}

/// `scheme://user:password@host:port,host:port/path?query` (RFC 3986, and libpq's
/// connection URIs for several hosts and for sockets), as far as it says where.
fn addresses(url: &str) -> Option<Vec<Address>> {
    let url = url.trim();
    let url = url.strip_prefix("jdbc:").unwrap_or(url);
    let (scheme, rest) = url.split_once(':')?;
    // `postgresql+asyncpg` is a driver's name for it, and `redis+unix` says how.
    let mut words = scheme.split('+');
    let kind = words.next().unwrap_or_default().to_ascii_lowercase();
    if FILES.contains(&kind.as_str()) {
        return Some(Vec::new());
    }
    let is_socket = kind == "unix" || words.clone().any(|word| matches!(word, "unix" | "socket"));
    if is_socket {
        // Before the path may stand who asks: `redis+unix://:password@/run/redis.sock`.
        let rest = rest.strip_prefix("//").unwrap_or(rest).split(['?', '#']).next()?;
        let (who, path) = rest.split_at(rest.find('/')?);
        let is_path = (who.is_empty() || who.ends_with('@')) && path.len() > 1;
        return is_path.then(|| vec![Address::Unix(decode(path).into())]);
    }
    // A list of brokers may have the scheme once more before each.
    let rest = rest.strip_prefix("//")?.replace(&format!(",{scheme}://"), ",");
    if words.any(|word| word == "srv") {
        // Only the name server knows where that is.
        return None;
    }
    let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if after.contains('@') {
        // A password with a character in it that should be encoded: what is a host?
        return None;
    }
    let default = PORTS.iter().find(|(name, _)| *name == kind).map(|(_, port)| *port);
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    if !hosts.is_empty() {
        return hosts.split(',').map(|host| one(host, &kind, default)).collect();
    }
    let query = after.split_once('?').map_or("", |(_, query)| query).split('#').next()?;
    let value = |key: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=').map(decode))
    };
    let port = match value("port") {
        Some(port) => Some(port.parse().ok()?),
        None => default,
    }?;
    match value("host") {
        Some(host) => Some(vec![address(&host, &kind, port)?]),
        None if kind.starts_with("postg") => {
            let hosts = POSTGRES.iter().chain(&["localhost"]);
            hosts.map(|host| address(host, &kind, port)).collect()
        }
        None => None,
    }
}

fn one(host: &str, kind: &str, default: Option<u16>) -> Option<Address> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, after) = rest.split_once(']')?;
            (name, after.strip_prefix(':').or_else(|| after.is_empty().then_some("")))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("")),
        },
    };
    let port = match port? {
        "" => default?,
        port => port.parse().ok().filter(|port| *port > 0)?,
    };
    address(&decode(name), kind, port)
}

/// A host that is a path is the folder of `PostgreSQL`'s socket.
fn address(host: &str, kind: &str, port: u16) -> Option<Address> {
    if host.starts_with('/') && kind.starts_with("postg") {
        return Some(Address::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{port}"))));
    }
    let is_host = |char: char| char.is_alphanumeric() || "-_.:%".contains(char);
    (!host.is_empty() && host.chars().all(is_host)).then(|| Address::Tcp(host.to_owned(), port))
}

/// Percent-encoding (RFC 3986, section 2.1).
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex =
            after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// By the variable, and where it is; never with what else the value holds.
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
    use crate::plan::env::Var;
    use proptest::prelude::*;

    fn shown(url: &str) -> Option<String> {
        let var = Var::given(url.to_owned());
        Need::parse("X", |_| Some(&var)).ok().map(|need| need.to_string())
    }

    #[test]
    fn urls_say_where() {
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
            // Nobody has to be there.
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
        ] {
            assert_eq!(shown(url), None, "{url}");
        }
    }

    #[test]
    fn errors_show_no_secret() {
        let var = Var::given("s3cret".to_owned());
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
    }

    proptest! {
        #[test]
        fn never_panics(url in "\\PC{0,60}", tail in "[a-z:/@?=&%\\[\\],0-9]{0,40}") {
            let _ = (addresses(&url), addresses(&format!("postgres://{tail}")));
        }

        #[test]
        fn a_password_is_never_shown(
            user in "[a-z]{1,8}",
            before in "[0-9?#/@:=&%]{0,4}",
            after in "[0-9?#/@:=&%]{0,4}",
            host in "[a-z]{1,8}",
            port: u16,
        ) {
            let url = format!("redis://{user}:{before}SECRET{after}@{host}:{port}/x");
            prop_assert!(shown(&url).is_none_or(|shown| !shown.contains("SECRET")));
            let error = Need::parse(&url, |_| None).map_err(|error| error.to_string());
            prop_assert!(error.is_ok() || !error.unwrap_err().contains("SECRET"));
        }
    }
}
