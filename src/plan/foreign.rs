//! Other runners' files of defaults, which are not read: what stands in them has a
//! place in ganger's own.

/// The files that are noticed.
pub const NAMES: [&str; 2] = [".foreman", ".overmind.env"];

/// For each setting in the file `name`, and what says it here.
#[must_use]
pub fn settings(name: &str, text: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(text);
    let ours = if name == ".foreman" { of_foreman } else { of_overmind };
    let key = |line: &str| {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
        let end = line.find([':', '=']).filter(|_| !line.starts_with('#'))?;
        let key = line[..end].trim().trim_matches(['"', '\'']).to_owned();
        ours(&key).map(|ours| (key, ours))
    };
    text.lines().filter_map(key).collect()
}

/// `.foreman` is YAML, and every flag of foreman is a key.
fn of_foreman(key: &str) -> Option<String> {
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
fn of_overmind(key: &str) -> Option<String> {
    let Some(name) = key.strip_prefix("OVERMIND_") else {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        return (!key.is_empty() && key.bytes().all(is_name))
            .then(|| "a line of `.env`".to_owned());
    };
    let ours = match name {
        "CAN_DIE" => "GANGER_CAN_DIE",
        "ANY_CAN_DIE" => "GANGER_ANY_CAN_DIE",
        "AUTO_RESTART" => "GANGER_AUTO_RESTART",
        "COLORS" => "GANGER_COLORS",
        "DAEMONIZE" => "GANGER_DAEMONIZE",
        "ENV" => "GANGER_ENV",
        "FORMATION" => "GANGER_FORMATION",
        "PORT_STEP" => "GANGER_PORT_STEP",
        "IGNORED_PROCESSES" => "GANGER_IGNORED_PROCESSES",
        "NO_PORT" => "GANGER_NO_PORT",
        "PORT" => "GANGER_PORT",
        "PROCESSES" => "GANGER_PROCESSES",
        "PROCFILE" => "GANGER_PROCFILE",
        "ROOT" => "GANGER_ROOT",
        "SHELL" => "GANGER_SHELL",
        "SHOW_TIMESTAMPS" => "GANGER_TIMESTAMP",
        "SOCKET" => "GANGER_SOCKET",
        "STOP_SIGNALS" => "GANGER_STOP_SIGNALS",
        "TIMEOUT" => "GANGER_TIMEOUT",
        "TITLE" => "GANGER_TITLE",
        _ => return None,
    };
    Some(format!("`{ours}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_place_here() {
        let shown = |name, text: &str| {
            let settings = settings(name, text.as_bytes());
            settings.into_iter().map(|(a, b)| format!("{a} {b}")).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(".foreman", "# x: y\n---\nformation: web=2\n\"port\": 3000\nunknown: 1\n"),
            ["formation `formation` in `ganger.toml`", "port `port` in `ganger.toml`"]
        );
        assert_eq!(
            shown(".overmind.env", "export OVERMIND_PORT=3000\nOVERMIND_CAN_DIE=web\nA=b\n"),
            [
                "OVERMIND_PORT `GANGER_PORT`",
                "OVERMIND_CAN_DIE `GANGER_CAN_DIE`",
                "A a line of `.env`"
            ]
        );
    }
}
