//! Settings files of other runners. ganger does not follow them, but names its own settings with
//! the same meaning.

/// The files that are looked for.
pub const FILE_NAMES: [&str; 2] = [".foreman", ".overmind.env"];

/// Each setting in the file `name`, with ganger's equivalent.
#[must_use]
pub fn list_settings(name: &str, text: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(text);
    let ours = if name == ".foreman" { from_foreman } else { from_overmind };
    let key = |line: &str| {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
        let end = line.find([':', '=']).filter(|_| !line.starts_with('#'))?;
        let key = line[..end].trim().trim_matches(['"', '\'']).to_owned();
        ours(&key).map(|ours| (key, ours))
    };
    text.lines().filter_map(key).collect()
}

/// `.foreman` is YAML, and every flag of foreman is a key.
fn from_foreman(key: &str) -> Option<String> {
    let ours = match key {
        "formation" | "concurrency" => "`formation` in `ganger.toml`",
        "port" => "`port` in `ganger.toml`",
        "env" => "`env` in `ganger.toml`",
        "timeout" => "`grace` in `ganger.toml`, or `--timeout`",
        "procfile" => "`--procfile`",
        "root" => "`--root`",
        "color" => "`--color`",
        "timestamp" => "`--timestamp`",
        _ => return None,
    };
    Some(ours.to_owned())
}

/// `.overmind.env` has variables, each for a flag or for the app.
fn from_overmind(key: &str) -> Option<String> {
    let Some(name) = key.strip_prefix("OVERMIND_") else {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        return (!key.is_empty() && key.bytes().all(is_name))
            .then(|| "a line of `.env`".to_owned());
    };
    let ours = match name {
        "FORMATION" => "`formation` in `ganger.toml`",
        "PORT" => "`port` in `ganger.toml`",
        "ENV" => "`env` in `ganger.toml`",
        "CAN_DIE" => "`--can-die`, or `on_exit` in `ganger.toml`",
        "ANY_CAN_DIE" => "`--any-can-die`, or `on_exit` in `ganger.toml`",
        "AUTO_RESTART" => "`--auto-restart`, or `on_exit` in `ganger.toml`",
        "STOP_SIGNALS" => "`--stop-signals`, or `stop_signal` in `ganger.toml`",
        "TIMEOUT" => "`--timeout`, or `grace` in `ganger.toml`",
        "COLORS" => "`--colors`",
        "DAEMONIZE" => "`--daemonize`",
        "PORT_STEP" => "`--port-step`",
        "IGNORED_PROCESSES" => "`--ignored-processes`",
        "NO_PORT" => "`--no-port`",
        "PROCESSES" => "`--processes`",
        "PROCFILE" => "`--procfile`",
        "ROOT" => "`--root`",
        "SHELL" => "`--shell`",
        "SHOW_TIMESTAMPS" => "`--timestamp`",
        "SOCKET" => "`--socket`",
        "TITLE" => "`--title`",
        _ => return None,
    };
    Some(ours.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_other_runners_are_listed_with_equivalents() {
        let shown = |name, text: &str| {
            let settings = list_settings(name, text.as_bytes());
            settings.into_iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(".foreman", "# x: y\n---\nformation: web=2\n\"port\": 3000\nunknown: 1\n"),
            ["formation `formation` in `ganger.toml`", "port `port` in `ganger.toml`"]
        );
        assert_eq!(
            shown(".overmind.env", "export OVERMIND_PORT=3000\nOVERMIND_CAN_DIE=web\nA=b\n"),
            [
                "OVERMIND_PORT `port` in `ganger.toml`",
                "OVERMIND_CAN_DIE `--can-die`, or `on_exit` in `ganger.toml`",
                "A a line of `.env`"
            ]
        );
    }
}
