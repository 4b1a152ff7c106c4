//! Ports: base + step × (index of the type in the Procfile) + (instance − 1).

/// How ports are assigned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    /// The port of the first instance of the first type.
    pub base: u16,
    /// The distance between the first instances of neighbouring types.
    pub step: u16,
}

/// The default base and step.
pub const DEFAULT: Ports = Ports { base: 5000, step: 100 };

/// Parses a port from 1 to 65535.
pub fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a port; expected 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

/// The base port that the user asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Base {
    /// One that is derived from the app, in a block of free ports.
    Auto,
    /// This one.
    At(u16),
}

impl Base {
    /// Parses a port from 1 to 65535, or `auto`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "auto" { Ok(Self::Auto) } else { parse_port(text).map(Self::At) }
    }
}

/// The lowest base of `auto`, and how many hundreds of ports it uses: they lie below the ports
/// that the system gives to outgoing connections.
const FIRST_AUTO_PORT: u16 = 10_000;
const AUTO_HUNDREDS: u16 = 220;

/// A block of ports that `auto` chooses: whole hundreds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AutoBlock {
    /// The first hundred, counted from the lowest base.
    first: u16,
    /// How many hundreds it has.
    count: u16,
}

impl AutoBlock {
    /// The block for an app with this hash and so many types. It begins at the same port in every
    /// run, and does not depend on the number of types as long as that fits.
    #[must_use]
    pub fn derive(hash: u64, types: usize, step: u16) -> Self {
        let ports = types.saturating_mul(usize::from(step)).max(1);
        let count = u16::try_from(ports.div_ceil(100)).unwrap_or(u16::MAX).min(AUTO_HUNDREDS);
        let first = u16::try_from(hash % u64::from(AUTO_HUNDREDS)).unwrap_or_default();
        Self { first: first.min(AUTO_HUNDREDS - count), count }
    }

    /// The first port.
    #[must_use]
    pub fn base(self) -> u16 {
        FIRST_AUTO_PORT + 100 * self.first
    }

    /// The first port of each hundred.
    pub fn hundreds(self) -> impl Iterator<Item = u16> {
        (self.first..self.first + self.count).map(|hundred| FIRST_AUTO_PORT + 100 * hundred)
    }

    /// Whether this port belongs to it.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.base()..self.base() + 100 * self.count).contains(&port)
    }

    /// This block, and then all others of its size: those above it, then those below.
    pub fn and_others(self) -> impl Iterator<Item = Self> {
        let last = AUTO_HUNDREDS - self.count;
        (self.first..=last).chain(0..self.first).map(move |first| Self { first, ..self })
    }
}

/// Why there is no port for a process.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The ports of this type reach into the next type's.
    #[error(
        "formation: {count} processes of `{name}` need more ports than the step of {step} leaves \
         (raise `--port-step`, or do without ports: `--no-port`)"
    )]
    Crowded {
        /// The process type.
        name: String,
        /// How many processes it has.
        count: u32,
        /// The step.
        step: u16,
    },
    /// The port would be over 65535.
    #[error(
        "`{name}` would get port {port}, and 65535 is the last (lower `--port` or `--port-step`, \
         or do without ports: `--no-port`)"
    )]
    TooHigh {
        /// The process.
        name: String,
        /// The port that it would get.
        port: u32,
    },
}

impl Ports {
    /// The port of instance `instance` (from 1) of the type at `index` (from 0).
    pub fn port(self, name: &str, index: usize, instance: u32) -> Result<u16, Error> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let port = u32::from(self.base)
            .saturating_add(index.saturating_mul(u32::from(self.step)))
            .saturating_add(instance - 1);
        let name = || format!("{name}.{instance}");
        u16::try_from(port).map_err(|_| Error::TooHigh { name: name(), port })
    }

    /// Whether `count` processes of the type `name` fit below the next type's.
    pub fn check(self, name: &str, count: u32) -> Result<(), Error> {
        if count > u32::from(self.step) {
            let (name, step) = (name.to_owned(), self.step);
            return Err(Error::Crowded { name, count, step });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_numbered_as_in_foreman() {
        let port = |index, instance| DEFAULT.port("web", index, instance).unwrap();
        assert_eq!((port(0, 1), port(0, 3), port(2, 1)), (5000, 5002, 5200));
    }

    #[test]
    fn auto_block_stays_when_types_are_added() {
        let block = |hash, types| AutoBlock::derive(hash, types, 100);
        assert_eq!((block(7, 1).base(), block(7, 3).base()), (10_700, 10_700));
        assert_eq!(block(7, 3).hundreds().collect::<Vec<_>>(), [10_700, 10_800, 10_900]);
        assert_eq!((block(219, 1).base(), block(219, 2).base()), (31_900, 31_800));
        assert_eq!((block(5, 0), block(5, 1000).base()), (block(5, 1), 10_000));
        let bases: Vec<u16> = block(218, 2).and_others().map(AutoBlock::base).collect();
        assert_eq!((bases.len(), bases[..2].to_vec()), (219, vec![31_800, 10_000]));
        assert_eq!(AutoBlock::derive(0, 3, 50).hundreds().count(), 2);
        let contains = |port| block(7, 2).contains(port);
        assert_eq!([10_699, 10_700, 10_899, 10_900].map(contains), [false, true, true, false]);
    }

    #[test]
    fn missing_port_is_an_error() {
        assert!(DEFAULT.check("web", 100).is_ok());
        let crowded = DEFAULT.check("web", 101).unwrap_err().to_string();
        assert!(crowded.starts_with("formation: 101 processes of `web` need more ports"));
        let high = Ports { base: 65535, step: 100 }.port("worker", 1, 1).unwrap_err();
        assert_eq!(high, Error::TooHigh { name: "worker.1".into(), port: 65635 });
    }

    proptest! {
        #[test]
        fn no_two_processes_share_a_port(base in 1u16..60000, step in 1u16..200, a in 0usize..20, b in 0usize..20, i in 1u32..200, j in 1u32..200) {
            let ports = Ports { base, step };
            prop_assume!((a, i) != (b, j) && ports.check("x", i).is_ok() && ports.check("x", j).is_ok());
            if let (Ok(one), Ok(other)) = (ports.port("x", a, i), ports.port("x", b, j)) {
                prop_assert_ne!(one, other);
            }
        }
    }
}
