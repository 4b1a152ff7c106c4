//! Random bytes as input of every parser and protocol: the checks of the fuzz targets, for a short
//! time and with any compiler, and all inputs that the fuzzer has found.

#[path = "../fuzz/src/lib.rs"]
mod checks;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Pieces of the syntax of the parsers, and random bytes between them.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> = vec![
        b"\n",
        b"\r\n",
        b"\\\n",
        b":",
        b"=",
        b"#",
        b" ",
        b"\"",
        b"'",
        b"$",
        b"${",
        b"}",
        b"\\",
        b"web: run",
        b"worker",
        b"A=1",
        b"export ",
        b"[process.web]\n",
        b"env = ",
        b"\xef\xbb\xbf",
        b"all=0",
        b"redis://",
        b"@",
        b"/",
        b"[::1]",
        b"after = ['web']\n",
        b",",
        b"\0",
        b"\xff",
    ];
    let piece = prop_oneof![
        3 => proptest::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn check(target: &str, check: fn(&[u8])) {
    let corpus = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let found: Vec<_> = std::fs::read_dir(corpus).unwrap().flatten().collect();
    assert!(!found.is_empty());
    for seed in found {
        check(&std::fs::read(seed.path()).unwrap());
    }
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) };
    TestRunner::new(config)
        .run(&bytes(), |bytes| {
            check(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn procfile_parser_survives_any_bytes() {
    check("procfile", checks::procfile);
}

#[test]
fn dotenv_parser_survives_any_bytes() {
    check("dotenv", checks::dotenv);
}

#[test]
fn terminal_filter_survives_any_bytes() {
    check("terminal", checks::terminal);
}

#[test]
fn formation_parser_survives_any_bytes() {
    check("formation", checks::formation);
}

#[test]
fn config_parser_survives_any_bytes() {
    check("config", checks::config);
}

#[test]
fn line_splitter_survives_any_bytes() {
    check("lines", checks::lines);
}

#[test]
fn keeper_protocol_survives_any_bytes() {
    check("protocol", checks::protocol);
}

#[test]
fn shell_parser_survives_any_bytes() {
    check("shell", checks::shell);
}

#[test]
fn service_address_parser_survives_any_bytes() {
    check("needs", checks::needs);
}

#[test]
fn painter_of_screens_survives_any_bytes() {
    check("screen", checks::screen);
}

#[test]
fn keys_survive_any_bytes() {
    check("keys", checks::keys);
}

#[test]
fn cursors_survive_any_bytes() {
    check("cursor", checks::cursor);
}

#[test]
fn record_of_an_ended_app_survives_any_bytes() {
    check("record", checks::record);
}
