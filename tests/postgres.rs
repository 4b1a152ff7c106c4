//! A `PostgreSQL` server for a test.

use std::process::Command;

use crate::scenario::Scenario;

/// Its command line in a Procfile. It does not run as root.
pub const COMMAND: &str = "exec setpriv --reuid postgres --regid postgres --clear-groups \
                           $POSTGRES/postgres -D data -p $PORT -k '' -c listen_addresses=127.0.0.1";

/// The table that belongs to it in `ganger.toml`, whose process type is `db`.
pub const CONFIG: &str = "[process.db]\nstop_signal = 'INT'\n\
                          ready = { command = '$POSTGRES/pg_isready -q -h 127.0.0.1 -p $PORT' }\n";

/// Makes an empty database in the folder of the scenario. Its environment then has the folder of
/// `PostgreSQL`'s programs.
pub fn add_database(scenario: Scenario) -> Scenario {
    let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap().flatten();
    let programs = versions.map(|it| it.path().join("bin")).max().unwrap().display().to_string();
    let folder = scenario.folder().to_owned();
    let init = format!(
        "mkdir data && chown postgres data && chmod 755 . && cd / && \
         setpriv --reuid postgres --regid postgres --clear-groups \
         {programs}/initdb -D {}/data -U postgres -A trust --no-sync",
        folder.display()
    );
    let output = Command::new("sh").args(["-c", &init]).current_dir(&folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    scenario.env("POSTGRES", &programs)
}
