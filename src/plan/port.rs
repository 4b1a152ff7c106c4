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
