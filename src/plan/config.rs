//! `ganger.toml`, which configures what a Procfile can't express. Every key is optional, and an
//! unknown key is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::fail::FailPattern;
use super::formation::{Formation, RELEASE, check_name, did_you_mean, nearest};
use super::needs::NeedText;
use super::policy::{OnExit, Stdin};
use super::port::{Base, parse_port};
use super::ready::{Ready, find_cycle};

/// The parsed file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The formation.
    #[serde(default, deserialize_with = "deserialize_formation")]
    formation: Option<Spanned<Formation>>,
    /// The base port.
    #[serde(default, deserialize_with = "deserialize_base")]
    pub port: Option<Base>,
    /// The `.env` files, relative to the root; later files win.
    pub env: Option<Vec<PathBuf>>,
    /// The table of each process type.
    #[serde(default)]
    process: BTreeMap<Spanned<String>, ProcessConfig>,
}

/// `[process.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// What happens when it exits.
    pub on_exit: Option<OnExit>,
    /// The stop signal.
    #[serde(default, deserialize_with = "deserialize_signal")]
    pub stop_signal: Option<Signal>,
    /// The time between the stop signal and SIGKILL.
    #[serde(default, deserialize_with = "deserialize_duration")]
    pub grace: Option<Duration>,
    /// The delays before restarts.
    #[serde(default)]
    pub backoff: Backoff,
    /// Its working directory, relative to the root.
    pub dir: Option<PathBuf>,
    /// Its stdin.
    pub stdin: Option<Stdin>,
    /// The readiness probe.
    pub ready: Option<Ready>,
    /// How long it may take to become ready, and to wait for its dependencies.
    #[serde(default, deserialize_with = "deserialize_duration")]
    pub ready_timeout: Option<Duration>,
    /// The line that says that it has failed.
    pub fail: Option<FailPattern>,
    /// The port of its first instance.
    #[serde(default, deserialize_with = "deserialize_port")]
    pub port: Option<u16>,
    /// Dependencies: types that are ready before it starts, and stop after it.
    #[serde(default)]
    after: Vec<Spanned<String>>,
    /// Backing services that must be reachable before it starts.
    #[serde(default)]
    needs: Vec<Spanned<NeedText>>,
    /// Globs of files: a change to one restarts the process.
    #[serde(default)]
    watch: Vec<Spanned<String>>,
    /// Whether ganger listens on its PORT and passes the socket.
    pub listen: Option<bool>,
    /// Variables of its own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// `backoff` of a process; keys that are not set are `None`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// The delay after the first crash.
    #[serde(default, deserialize_with = "deserialize_duration")]
    pub min: Option<Duration>,
    /// The longest delay.
    #[serde(default, deserialize_with = "deserialize_duration")]
    pub max: Option<Duration>,
    /// After how many crashes in a row it stays down.
    #[serde(default, deserialize_with = "deserialize_crashes")]
    pub give_up_after: Option<u32>,
}

/// Why the file is invalid.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Error {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

/// Parses the text of a `ganger.toml`. `types` are the process types of the Procfile, whose name
/// is `procfile`.
pub fn parse(text: &[u8], types: &[&str], procfile: &str) -> Result<Config, Error> {
    let line_of = |end| line_of(text, end);
    let text_of_it = std::str::from_utf8(text).map_err(|error| Error {
        line: line_of(error.valid_up_to()),
        message: "is not UTF-8 text".to_owned(),
    })?;
    let config: Config = toml::from_str(text_of_it).map_err(|error| Error {
        line: line_of(error.span().map_or(0, |span| span.start)),
        message: describe_error(error, types),
    })?;
    let error = |key: &Spanned<String>, message| Error { line: line_of(key.span().start), message };
    for (key, process) in &config.process {
        let name = key.get_ref().as_str();
        if !types.contains(&name) {
            let meant = did_you_mean(nearest(name, types.iter().copied()));
            let message = format!("process `{name}` is not in `{procfile}`{meant}");
            return Err(error(key, message));
        }
        let Backoff { min, max, .. } = process.backoff;
        if min.zip(max).is_some_and(|(min, max)| min > max) {
            let message = format!("`backoff` of `{name}`: `min` is longer than `max`");
            return Err(error(key, message));
        }
        for (variable, value) in &process.env {
            if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
                let message = format!("`env` of `{name}`: `{variable}` can't be a variable");
                return Err(error(key, message));
            }
        }
    }
    if let Some(formation) = &config.formation {
        for term in &formation.get_ref().0 {
            check_name(&term.name, types).map_err(|wrong| Error {
                line: line_of(formation.span().start),
                message: wrong.to_string(),
            })?;
        }
    }
    check_after(&config, types, procfile).map_err(|(key, message)| error(key, message))?;
    for (key, process) in &config.process {
        for pattern in &process.watch {
            if let Err(wrong) = check_glob(pattern.get_ref()) {
                let message = format!("`watch` of `{}`: {wrong}", key.get_ref());
                return Err(error(pattern, message));
            }
        }
    }
    Ok(config)
}

/// The line at this byte offset, counted from 1.
#[must_use]
pub fn line_of(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|&&byte| byte == b'\n').count()
}

/// Fails unless this is a glob for files in the app's folder.
fn check_glob(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() || pattern.starts_with('!') || pattern.ends_with('/') {
        return Err(format!("`{pattern}` means no file; expected a pattern such as `src/**/*.rb`"));
    }
    let leads_out = pattern.starts_with('/') || pattern.split('/').any(|part| part == "..");
    if leads_out {
        return Err(format!(
            "`{pattern}` leads out of the app's folder; expected a pattern such as `src/**/*.rb`"
        ));
    }
    globset::Glob::new(pattern).map(drop).map_err(|error| error.to_string())
}

/// Fails if an `after` names an unknown type, or if dependencies form a cycle.
fn check_after<'a>(
    config: &'a Config,
    types: &[&str],
    procfile: &str,
) -> Result<(), (&'a Spanned<String>, String)> {
    for (key, process) in &config.process {
        for name in &process.after {
            let (of, name_of_it) = (key.get_ref(), name.get_ref().as_str());
            if name_of_it == RELEASE || !types.contains(&name_of_it) {
                let meant = did_you_mean(nearest(name_of_it, types.iter().copied()));
                let why = if name_of_it == RELEASE {
                    "is never part of a formation".to_owned()
                } else {
                    format!("is not in `{procfile}`{meant}")
                };
                return Err((name, format!("`after` of `{of}`: `{name_of_it}` {why}")));
            }
        }
    }
    let names: Vec<&str> = config.process.keys().map(|key| key.get_ref().as_str()).collect();
    let after = |name: &str| config.process(name).map(ProcessConfig::after).unwrap_or_default();
    let Some(cycle) = find_cycle(&names, after) else { return Ok(()) };
    let place = config.process.iter().find(|(key, _)| key.get_ref() == cycle[0]);
    let place = place.and_then(|(_, first)| first.after.iter().find(|it| it.get_ref() == cycle[1]));
    let cycle: Vec<String> = cycle.iter().map(|name| format!("`{name}`")).collect();
    let message = format!("`after` goes in a cycle: {}", cycle.join(" comes after "));
    place.map_or(Ok(()), |place| Err((place, message)))
}

impl ProcessConfig {
    /// Its dependencies.
    #[must_use]
    pub fn after(&self) -> Vec<&str> {
        self.after.iter().map(|name| name.get_ref().as_str()).collect()
    }

    /// Its backing services, each with its byte offset in the file.
    pub fn needs(&self) -> impl Iterator<Item = (&str, usize)> {
        self.needs.iter().map(|need| (need.get_ref().0.as_str(), need.span().start))
    }

    /// The globs of the files that it watches.
    pub fn watch(&self) -> impl Iterator<Item = &str> {
        self.watch.iter().map(|pattern| pattern.get_ref().trim_start_matches("./"))
    }
}

impl Config {
    /// The formation.
    #[must_use]
    pub fn formation(&self) -> Option<&Formation> {
        self.formation.as_ref().map(Spanned::get_ref)
    }

    /// The port of the first instance of a type, if it is fixed.
    #[must_use]
    pub fn fixed_port(&self, name: &str) -> Option<u16> {
        self.process(name).and_then(|process| process.port)
    }

    /// The fixed ports of all types.
    pub fn fixed_ports(&self) -> impl Iterator<Item = u16> {
        self.process.values().filter_map(|process| process.port)
    }

    /// Gives types with a fixed port one like all others.
    pub(super) fn forget_fixed_ports(&mut self) {
        self.process.values_mut().for_each(|process| process.port = None);
    }

    /// Whether another type depends on this one.
    #[must_use]
    pub fn is_dependency(&self, name: &str) -> bool {
        self.process.values().any(|process| process.after().contains(&name))
    }

    /// The table of the process type `name`.
    #[must_use]
    pub fn process(&self, name: &str) -> Option<&ProcessConfig> {
        self.process.iter().find(|(key, _)| key.get_ref() == name).map(|(_, process)| process)
    }
}

/// Describes an error with its key and the nearest known key. A value may be a secret: it is
/// shown only where the type of the key rules that out.
fn describe_error(mut error: toml::de::Error, types: &[&str]) -> String {
    // Without the text, the error is shown with the path of its key.
    error.set_input(None);
    let shown = error.to_string();
    let path = shown.rsplit_once("\nin `").and_then(|(_, path)| path.trim_end().strip_suffix('`'));
    let key = path.map(last_key);
    let message = error.message().trim_end();
    for (prefix, what) in [("unknown field", "unknown key"), ("unknown variant", "unknown value")] {
        let Some(rest) = message.strip_prefix(prefix) else { continue };
        let mut quoted = rest.split('`').skip(1).step_by(2);
        let unknown = quoted.next().unwrap_or_default();
        let of = match key {
            Some(key) if prefix == "unknown variant" => format!(" for `{key}`"),
            Some(_) | None => String::new(),
        };
        if path.is_none() && types.contains(&unknown) {
            return format!("{what} `{unknown}` (did you mean `[process.{unknown}]`?)");
        }
        let rest = rest.split_once(", ").map_or("", |(_, rest)| rest);
        return match nearest(unknown, quoted) {
            Some(known) => format!("{what} `{unknown}`{of}{}", did_you_mean(Some(known))),
            None => format!("{what} `{unknown}`{of}, {rest}"),
        };
    }
    let Some(key) = key else { return message.to_owned() };
    let wrong =
        ["invalid type: ", "invalid value: "].iter().find_map(|it| message.strip_prefix(it));
    if let Some((found, expected)) = wrong.and_then(|wrong| wrong.rsplit_once(", expected ")) {
        let (found, expected) = (type_found(found), type_expected(key, expected));
        if found == expected.split(" that").next().unwrap_or_default() {
            return format!("`{key}` must be {expected}");
        }
        return format!("`{key}` must be {expected}, not {found}");
    }
    let leaf = key.rsplit('.').next().unwrap_or_default();
    let message = message.replace(KEY_PLACEHOLDER, leaf);
    if ["must ", "needs ", "takes "].iter().any(|verb| message.starts_with(verb)) {
        return format!("`{key}` {message}");
    }
    message
}

/// The placeholder for the key in an error message.
const KEY_PLACEHOLDER: &str = "<key>";

/// The key as it stands in its table: `grace` in `process.web.grace`.
fn last_key(path: &str) -> &str {
    let in_process = path.strip_prefix("process.").and_then(|rest| rest.split_once('.'));
    in_process.map_or(path, |(_, key)| key)
}

/// Keys whose values are lists of strings.
const LIST_KEYS: [&str; 4] = ["env", "after", "needs", "watch"];

fn type_expected<'a>(key: &str, expected: &'a str) -> &'a str {
    match expected {
        "a sequence" | "a string" | "path string" if LIST_KEYS.contains(&key) => {
            "a list of strings"
        }
        "i64" => "a whole number",
        "u32" => "a whole number that is not negative",
        "path string" => "a string",
        "a map" => "a table",
        "a boolean" => "true or false",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

fn type_found(found: &str) -> &'static str {
    match found.split(['`', '"']).next().unwrap_or_default().trim() {
        "sequence" => "a list",
        "map" => "a table",
        "integer" => "a whole number",
        "floating point" => "a number with a point",
        "boolean" => "true or false",
        "string" => "a string",
        _ => "something else",
    }
}

/// Parses the name or number of a signal: `TERM`, `SIGTERM`, `term` or `15`.
pub fn parse_signal(text: &str) -> Result<Signal, String> {
    if let Some(signal) = text.parse::<i32>().ok().and_then(|it| Signal::try_from(it).ok()) {
        return Ok(signal);
    }
    let error = |_| format!("`{text}` is not a signal{}", did_you_mean(nearest_signal(text)));
    format!("SIG{}", short_name(text)).parse().map_err(error)
}

fn short_name(signal: &str) -> String {
    let name = signal.to_uppercase();
    name.strip_prefix("SIG").unwrap_or(&name).to_owned()
}

fn nearest_signal(text: &str) -> Option<&'static str> {
    let known = Signal::iterator().map(|signal| &signal.as_str()["SIG".len()..]);
    nearest(&short_name(text), known)
}

/// The longest duration that is accepted: adding it to a clock must not overflow.
const MAX_DURATION: Duration = Duration::from_hours(24 * 365);

/// Parses a duration: `500ms`, `1m 30s`, or a number of seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_humantime(text).map_err(|error| match error {
        DurationError::TooLong => format!("`{text}` is too long; expected a year at most"),
        DurationError::Malformed => {
            format!("`{text}` is not a duration; expected `30s` or `500ms`")
        }
    })
}

enum DurationError {
    TooLong,
    Malformed,
}

fn parse_humantime(text: &str) -> Result<Duration, DurationError> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match seconds.or_else(|| humantime::parse_duration(text).ok()) {
        Some(duration) if duration <= MAX_DURATION => Ok(duration),
        Some(_) => Err(DurationError::TooLong),
        None => Err(DurationError::Malformed),
    }
}

/// Parses a number of bytes: `262144`, `256K` or `1M`.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|unit: char| !unit.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => Some(0),
        "K" | "KB" | "KIB" => Some(10),
        "M" | "MB" | "MIB" => Some(20),
        _ => None,
    };
    let bytes = digits.parse().ok().zip(shift);
    bytes
        .and_then(|(number, shift): (usize, u32)| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("`{text}` is not a size; expected `256K` or `1M`"))
}

fn deserialize_formation<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Spanned<Formation>>, D::Error> {
    let text = Spanned::<String>::deserialize(deserializer)?;
    let formation = text.get_ref().parse().map_err(de::Error::custom)?;
    Ok(Some(Spanned::new(text.span(), formation)))
}

fn deserialize_crashes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(de::Error::custom("must be a number of crashes, 1 or more")),
        crashes => Ok(Some(crashes)),
    }
}

fn deserialize_signal<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Signal>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let error = |_| {
        let meant = did_you_mean(nearest_signal(&text));
        de::Error::custom(format!("must be a signal such as `TERM`, not `{text}`{meant}"))
    };
    parse_signal(&text).map(Some).map_err(error)
}

fn deserialize_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    deserializer.deserialize_any(DurationVisitor).map(Some)
}

/// A number is an error, because it could mean seconds or milliseconds.
struct DurationVisitor;

impl de::Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse_humantime(text).map_err(|error| match error {
            DurationError::TooLong => E::custom(format!("must be a year at most, not `{text}`")),
            DurationError::Malformed => {
                E::custom(format!("must be a duration such as `30s`, not `{text}`"))
            }
        })
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
        Err(E::custom(format!("needs a unit, as in `{KEY_PLACEHOLDER} = \"{number}s\"`")))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Duration, E> {
        Err(E::custom(format!("needs a unit, as in `{KEY_PLACEHOLDER} = \"{number}s\"`")))
    }
}

fn deserialize_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let port = i64::deserialize(deserializer)?;
    let error = |_| de::Error::custom(format!("must be a port from 1 to 65535, not `{port}`"));
    parse_port(&port.to_string()).map(Some).map_err(error)
}

fn deserialize_base<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Base>, D::Error> {
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::Integer(port) => port.to_string(),
        toml::Value::String(text) if text == "auto" => text,
        other => {
            let found = type_found(other.type_str());
            return Err(de::Error::custom(format!("must be a port or `auto`, not {found}")));
        }
    };
    let error = |_| de::Error::custom(format!("must be a port from 1 to 65535, not `{text}`"));
    Base::parse(&text).map(Some).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Config, String> {
        let config = super::parse(text.as_bytes(), &["web", "worker"], "Procfile");
        config.map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_is_parsed() {
        let config = parse(
            "formation = 'web=2'\nport = 3000\nenv = ['.env', 'b']\n[process.web]\n\
             on_exit = 'restart-on-failure'\nstop_signal = 'int'\ngrace = '1m 30s'\n\
             backoff = { min = '1s', max = '2s', give_up_after = 3 }\ndir = 'api'\n\
             stdin = 'null'\nlisten = true\nready = { log = 'up' }\n\
             ready_timeout = '5s'\nafter = ['worker']\nneeds = ['DATABASE_URL']\n\
             watch = ['src/**/*.rb']\nenv = { A = 'b' }\n",
        );
        insta::assert_debug_snapshot!(config.unwrap());
    }

    #[test]
    fn invalid_config_is_refused_with_its_line() {
        for (text, expected) in [
            ("\nprot = 1", "line 2: unknown key `prot` (did you mean `port`?)"),
            (
                "[process.wroker]",
                "line 1: process `wroker` is not in `Procfile` (did you mean `worker`?)",
            ),
            (
                "[process.web]\n\non_exti = 'restart'",
                "line 3: unknown key `on_exti` (did you mean `on_exit`?)",
            ),
            ("port = 'x'", "line 1: `port` must be a port or `auto`, not a string"),
            ("\nenv = 's3cret'", "line 2: `env` must be a list of strings, not a string"),
            (
                "port = 1\nformation = 'wep=2'",
                "line 2: the Procfile has no `wep` (did you mean `web`?)",
            ),
            (
                "[process.web]\nbackoff = { give_up_after = 0 }",
                "line 2: `backoff.give_up_after` must be a number of crashes, 1 or more",
            ),
            (
                "[process.web]\nbackoff = { min = '10s', max = '1s' }",
                "line 1: `backoff` of `web`: `min` is longer than `max`",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        assert!(parse("port =").unwrap_err().starts_with("line 1: "));
        let not_text = super::parse(b"a\n\xff", &[], "Procfile").unwrap_err();
        assert_eq!(not_text.to_string(), "line 2: is not UTF-8 text");
    }

    #[test]
    fn wrong_value_is_refused_with_its_key() {
        for (text, expected) in [
            ("env = 5", "line 1: `env` must be a list of strings, not a whole number"),
            ("[process]\nweb = 5", "line 2: `process.web` must be a table, not a whole number"),
            (
                "[process.web]\nlisten = 1.5",
                "line 2: `listen` must be true or false, not a number with a point",
            ),
            (
                "[process.web]\nenv = { KEY = 12 }",
                "line 2: `env.KEY` must be a string, not a whole number",
            ),
            (
                "[process.web]\nbackoff = { give_up_after = -1 }",
                "line 2: `backoff.give_up_after` must be a whole number that is not negative",
            ),
            ("[process.web]\ndir = true", "line 2: `dir` must be a string, not true or false"),
            (
                "[process.web]\non_exit = 'ignroe'",
                "line 2: unknown value `ignroe` for `on_exit` (did you mean `ignore`?)",
            ),
            ("port = 65536", "line 1: `port` must be a port from 1 to 65535, not `65536`"),
            (
                "[process.web]\ngrace = 'soon'",
                "line 2: `grace` must be a duration such as `30s`, not `soon`",
            ),
            (
                "[process.web]\nstop_signal = 'TREM'",
                "line 2: `stop_signal` must be a signal such as `TERM`, not `TREM` (did you mean `TERM`?)",
            ),
            (
                "[process.web]\nbackoff = { mni = '1s' }",
                "line 2: unknown key `mni` (did you mean `min`?)",
            ),
            (
                "[process.web]\nready = { http = 'x' }",
                "line 2: `ready` needs a path for `http`, such as `/healthz`",
            ),
            (
                "[process.web]\nready = {}",
                "line 2: `ready` takes one of `port`, `http`, `log`, `command` and `exit`",
            ),
            (
                "[process.web]\nready = { prt = true }",
                "line 2: unknown key `prt` (did you mean `port`?)",
            ),
            (
                "[process.web]\n\nafter = ['wroker']",
                "line 3: `after` of `web`: `wroker` is not in `Procfile` (did you mean `worker`?)",
            ),
            (
                "[process.web]\nafter = ['worker']\n[process.worker]\nafter = ['web']",
                "line 2: `after` goes in a cycle: `web` comes after `worker` comes after `web`",
            ),
            (
                "[process.web]\nafter = 'worker'",
                "line 2: `after` must be a list of strings, not a string",
            ),
            (
                "[process.web]\nafter = [5]",
                "line 2: `after` must be a list of strings, not a whole number",
            ),
            ("[process.web]\ngrace = 30", "line 2: `grace` needs a unit, as in `grace = \"30s\"`"),
            (
                "[process.web]\nbackoff = { max = 0.5 }",
                "line 2: `backoff.max` needs a unit, as in `max = \"0.5s\"`",
            ),
            (
                "[process.web]\ngrace = '2years'",
                "line 2: `grace` must be a year at most, not `2years`",
            ),
            ("[process.web]\ngrace = true", "line 2: `grace` must be a string, not true or false"),
            ("[web]\ngrace = '1s'", "line 1: unknown key `web` (did you mean `[process.web]`?)"),
            (
                "formation = 'web=x'",
                "line 1: formation: `x` is not a valid instance count; expected `web=2`",
            ),
            (
                "[process.web]\nenv = { 'A=B' = 'x' }",
                "line 1: `env` of `web`: `A=B` can't be a variable",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
        let on_exit = parse("[process.web]\non_exit = 'qqqqq'").unwrap_err();
        let all = "line 2: unknown value `qqqqq` for `on_exit`, expected one of `stop-all`, ";
        assert!(on_exit.starts_with(all), "{on_exit}");
    }

    #[test]
    fn debug_of_needs_shows_no_password() {
        let config = parse("[process.web]\nneeds = ['redis://hunter2@cache', 'x://hunter2']\n");
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    }

    #[test]
    fn signal_names_and_numbers_are_parsed() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(parse_signal(text), Ok(Signal::SIGTERM), "{text}");
        }
        for text in ["", "0", "-1", "99", "SIG", "SIG15"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_parsed() {
        let sizes = ["0", "262144", "256K", "1m", "2MiB"].map(parse_size);
        assert_eq!(sizes, [0, 262_144, 262_144, 1 << 20, 2 << 20].map(Ok));
        for text in ["", "K", "-1", "1G5", "1X", "99999999999999999999", "18446744073709551615K"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_seconds_are_parsed() {
        assert_eq!(parse_duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("1e19").is_err() && parse_duration("2years").is_err());
        assert!(parse_duration("-1").is_err() && parse_duration("nan").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z=\\[\\]\\.'\"{}\n #0-9_]{0,80}") {
            let _ = parse(&text);
        }
    }
}
