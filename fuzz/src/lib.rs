//! What must hold for any bytes, for every parser and protocol: one function
//! each, which the fuzzer and the tests share.
//!
//! ```text
//! cargo +nightly fuzz run procfile
//! ```

use std::path::Path;

use ganger::control::last_run::{self, LineFormat, LineQuery};
use ganger::control::paint::paint;
use ganger::keeper::protocol::{Decoder, Report, Request, encode};
use ganger::keys::detach::{DetachFilter, DetachKeys, Filtered};
use ganger::keys::input::Input;
use ganger::logs::cursor::LogCursor;
use ganger::logs::format::Style;
use ganger::logs::lines::{LineSplitter, Prefix, SplitLines};
use ganger::logs::terminal::{Layout, LongLines, TerminalLines};
use ganger::plan::env::Layer;
use ganger::plan::formation::{Formation, FormationRequest, count_instances};
use ganger::plan::needs::Need;
use ganger::plan::{config, dotenv, env, procfile, shell};
use ganger::pty::WindowSize;

/// The parsed types, written as a Procfile, are parsed to the same types.
pub fn procfile(bytes: &[u8]) {
    let types = match procfile::parse(bytes) {
        Ok(types) => types,
        Err(error) => return assert!(!error.to_string().contains('\n')),
    };
    let mut again = Vec::new();
    for process_type in &types {
        assert!(procfile::is_name(&process_type.name) && !process_type.command.trim().is_empty());
        assert!(!process_type.command.contains(['\n', '\0']));
        again.extend(format!("{}: {}\n", process_type.name, process_type.command).into_bytes());
    }
    assert!(types.is_sorted_by(|before, after| before.line < after.line));
    if types.iter().any(|it| it.command.ends_with('\r')) {
        // Joined from two lines: one line can't give the same.
        return;
    }
    let parsed = procfile::parse(&again).expect("what was parsed parses");
    let pairs_of = |types: &[procfile::ProcessType]| {
        let pairs = types.iter().map(|it| (it.name.clone(), it.command.clone()));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(pairs_of(&parsed), pairs_of(&types));
}

/// A value names a service or it doesn't, and what is shown of it is the same with
/// another password.
pub fn needs(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let shown = |text: &str| {
        let var = env::Variable::from_ganger(text.to_owned());
        let need = Need::parse("SERVICE_URL", |_| Some(&var));
        need.map(|need| need.to_string()).map_err(|error| error.to_string())
    };
    let first = shown(text);
    if let Some((scheme, rest)) = text.split_once("://")
        && let Some((secret, host)) = rest.rsplit_once('@')
        // A path may have an `@` in it and is no secret.
        && !["unix", "socket"].iter().any(|kind| scheme.to_ascii_lowercase().contains(kind))
    {
        let other = |char: char| match char {
            'a'..='z' | 'A'..='Z' => 'q',
            '0'..='9' => '7',
            other => other,
        };
        let secret: String = secret.chars().map(other).collect();
        let second = shown(&format!("{scheme}://{secret}@{host}"));
        assert!(first.is_ok() != second.is_ok() || first == second);
    }
    let _ = Need::parse(text, |_| None);
}

/// A `.env` file has values or an error, and neither shows any of them.
pub fn dotenv(bytes: &[u8]) {
    let assignments = match dotenv::parse(bytes) {
        Ok(assignments) => assignments,
        Err(error) => {
            assert!(!matches!(error, dotenv::Error::Refused { .. }), "not prepared for dotenvy");
            return assert!(!error.to_string().contains('\n'));
        }
    };
    assert!(assignments.is_sorted_by(|before, after| before.line < after.line));
    let keys: Vec<String> = assignments.iter().map(|found| found.key.clone()).collect();
    let layer = Layer { file: ".env".into(), assignments };
    let real = [("HOME".into(), "/".into())];
    for files_win in [false, true] {
        let sources = env::EnvSources {
            real: &real,
            layers: vec![layer.clone()],
            files_win,
            own: env::Env::new(),
        };
        let Ok(resolved) = sources.resolve() else {
            continue;
        };
        assert!(keys.iter().all(|key| resolved.env.contains_key(std::ffi::OsStr::new(key))));
        let long = |value: &std::ffi::OsStr| value.len() >= 12;
        let shown = format!("{layer:?}{resolved:?}");
        for (key, var) in &resolved.env {
            let value = var.value.to_string_lossy();
            // What is in a name or in what Rust itself writes isn't shown by it.
            let elsewhere = keys.iter().any(|key| key.contains(&*value));
            let told = long(&var.value) && !elsewhere && shown.contains(&*value);
            assert!(!told || key == "HOME", "a value is shown");
        }
    }
}

/// A formation has as many numbers as there are types, or an error.
pub fn formation(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(formation) = text.parse::<Formation>() else { return };
    let types = ["web", "worker", "release"];
    let wanted =
        FormationRequest { formation: Some(&formation), chosen: &[], ignored: &[], scaled: None };
    if let Ok(counts) = count_instances(&types, &wanted) {
        assert_eq!(counts.by_type.len(), types.len());
        assert!(counts.by_type[2] == 0 && counts.by_type.iter().any(|count| *count > 0));
    }
    let chosen =
        FormationRequest { formation: None, chosen: &formation.0, ignored: &[], scaled: None };
    let _ = count_instances(&types, &chosen);
}

/// A configuration is read or refused, with a line.
pub fn config(bytes: &[u8]) {
    if let Err(error) = config::parse(bytes, &["web", "worker"], "Procfile") {
        assert!(error.to_string().starts_with("line "), "{error}");
    }
}

const PREFIX: Prefix =
    Prefix { stamp: b"", line: b"a | ", continuation: b"a |+", wrapped: b"  | ", width: 4 };

/// The pieces in which output comes don't matter on a terminal either, and no control character
/// reaches it but newlines, tabs, the bell, and ESC before a colour or a link. The first three
/// bytes say in which pieces it comes, how wide the terminal is, and what happens to long lines.
pub fn terminal(bytes: &[u8]) {
    let [piece, columns, mode, rest @ ..] = bytes else { return };
    let long_lines = if mode % 2 == 0 { LongLines::Wrap } else { LongLines::Trim };
    let layout = Layout { columns: Some((*columns).into()), long_lines, color: mode % 3 > 0 };
    let show = |piece: usize| {
        let (mut lines, mut out) = (TerminalLines::new(layout), Vec::new());
        for chunk in rest.chunks(piece) {
            lines.push(chunk, PREFIX, &mut out);
        }
        lines.finish(PREFIX, &mut out);
        out
    };
    let out = show(64 << 10);
    assert!(out == show(1 + usize::from(*piece)), "the pieces matter");
    let c1 = |pair: &[u8]| pair[0] == 0xc2 && (0x80..0xa0).contains(&pair[1]);
    assert!(!out.windows(2).any(c1), "a control character in UTF-8");
    let mut rest = out.as_slice();
    while let [byte, after @ ..] = rest {
        match byte {
            b'\n' | b'\t' | 7 | b' '..=b'~' | 0x80.. => {}
            0x1b if layout.color => {
                let is_one =
                    [&b"["[..], b"]8;", b"\\"].iter().any(|start| after.starts_with(start));
                assert!(is_one, "an escape sequence");
            }
            _ => panic!("a control character"),
        }
        rest = after;
    }
}

/// The pieces in which output comes don't matter, and nothing of it is lost. The
/// first two bytes say how often the rest comes, and in which pieces.
pub fn lines(bytes: &[u8]) {
    let [times, piece, rest @ ..] = bytes else { return };
    let text = rest.repeat(1 + usize::from(*times) * 8);
    let prefix = PREFIX;
    let cut = |piece: usize| {
        let (mut splitter, mut out) = (LineSplitter::default(), Vec::new());
        for chunk in text.chunks(piece) {
            splitter.push(chunk, prefix, &mut out);
        }
        splitter.finish(prefix, &mut out);
        out
    };
    let out = cut(1 + usize::from(*piece) * 100);
    assert!(out == cut(64 << 10), "the pieces matter");
    let mut joined = Vec::new();
    for line in out.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_prefix(prefix.continuation) {
            Some(more) => {
                joined.pop();
                joined.extend_from_slice(more);
            }
            None => joined.extend_from_slice(line.strip_prefix(prefix.line).expect("a prefix")),
        }
    }
    let newline = !text.is_empty() && !text.ends_with(b"\n");
    assert!(joined == [&text[..], if newline { b"\n" } else { b"" }].concat(), "something is lost");
}

/// Any output can be painted, and the painting is no longer than a screen needs. The first three
/// bytes say how large the window is, and whether the process reads lines.
pub fn screen(bytes: &[u8]) {
    let [rows, columns, mode, rest @ ..] = bytes else { return };
    let size = WindowSize { rows: (*rows).into(), columns: (*columns).into() };
    let painted = paint(rest, size, mode % 2 == 0);
    // A cell has at most two colours, all attributes, and a character with combining ones; what
    // was queried last is repeated.
    let most = 1000 + usize::from(*rows) * usize::from(*columns) * 100 + rest.len();
    assert!(painted.len() <= most, "{} bytes", painted.len());
}

/// All that is typed reaches the process, up to the keys that detach, in whatever pieces it is
/// read. The first byte says in which.
pub fn keys(bytes: &[u8]) {
    let [piece, rest @ ..] = bytes else { return };
    // The escape key is passed on at the end of a piece.
    let typed: Vec<u8> = rest.iter().copied().filter(|byte| *byte != 0x1b).collect();
    let keys: DetachKeys = "ctrl-p,ctrl-q".parse().expect("keys");
    let pass = |piece: usize| {
        let (mut filter, mut passed) = (DetachFilter::new(keys.clone()), Vec::new());
        for chunk in typed.chunks(piece) {
            let Filtered { input, detaches } = filter.push(chunk);
            passed.extend(input);
            if detaches {
                return (passed, true);
            }
        }
        (passed, false)
    };
    let (passed, detaches) = pass(1 + usize::from(*piece));
    assert!((&passed, detaches) == (&pass(1).0, pass(1).1), "the pieces matter");
    assert!(typed.starts_with(&passed), "it is changed");
    assert_eq!(detaches, typed[passed.len()..].starts_with(b"\x10\x11"));
    if let Ok(text) = std::str::from_utf8(rest) {
        let _ = text.parse::<DetachKeys>();
        if let Ok(input) = text.parse::<Input>() {
            assert!(input.bytes().len() <= text.len());
        }
    }
}

/// A cursor is written as it was read, or refused.
pub fn cursor(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(cursor) = text.parse::<LogCursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
}

/// Lines that an app has left are shown one by one, or left out. The first line of their file is
/// valid.
pub fn record(bytes: &[u8]) {
    const HEADER: &[u8] = br#"{"run":{"pid":1,"root":"/a","procfile":"Procfile","name":null,
        "roots":[],"socket":null},"ending":{"at":1.5,"exit_code":0,"report":[]}}"#;
    let _ = last_run::parse(bytes);
    let header: Vec<u8> = HEADER.iter().copied().filter(|byte| *byte != b'\n').collect();
    let last = last_run::parse(&[&header, &b"\n"[..], bytes].concat()).expect("a valid header");
    let layout = Layout { columns: Some(80), long_lines: LongLines::Wrap, color: false };
    let show = |format| {
        let query = LineQuery {
            names: &[],
            max_lines: None,
            since: None,
            this_run: false,
            matches: &|_| true,
            format,
        };
        last.format_lines(&query).expect("no name is asked for")
    };
    let json = show(LineFormat::Json { follows_cursor: true });
    let is_object = |line: &[u8]| line.starts_with(b"{") && line.ends_with(b"}");
    assert!(json.trim_ascii_end().split(|byte| *byte == b'\n').all(is_object));
    let text = show(LineFormat::Text(Style::default(), Some(layout)));
    assert!(text.is_empty() || text.ends_with(b"\n"));
    assert!(!text.contains(&0x1b), "an escape sequence is shown without colours");
}

/// Garbage is refused, and what is a message is the same when sent again. The
/// first byte says in which pieces it comes.
pub fn protocol(bytes: &[u8]) {
    let [piece, rest @ ..] = bytes else { return };
    let (mut requests, mut reports) = (Decoder::default(), Decoder::default());
    for chunk in rest.chunks(1 + usize::from(*piece)) {
        requests.push(chunk);
        while let Ok(Some(request)) = requests.take::<Request>() {
            let mut again = Decoder::default();
            again.push(&encode(&request));
            assert_eq!(again.take(), Ok(Some(request)));
        }
        reports.push(chunk);
        while let Ok(Some(report)) = reports.take::<Report>() {
            let mut again = Decoder::default();
            again.push(&encode(&report));
            assert_eq!(again.take(), Ok(Some(report)));
        }
    }
}

/// A command that is run without a shell means to a shell just those words.
pub fn shell(bytes: &[u8]) {
    let Ok(command) = std::str::from_utf8(bytes) else { return };
    let argv = shell::argv(Path::new(shell::DEFAULT), command);
    if argv.len() == 3 && argv[0] == shell::DEFAULT && argv[1] == "-c" {
        return;
    }
    assert!(!command.contains(['$', '`', '\'', '"', '\\', '*', '?', '[', '~', '#', '&', '|']));
    assert!(!command.contains(['<', '>', ';', '(', ')', '{', '}', '!', '\n']));
    let words: Vec<&str> = command.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    assert!(argv.iter().map(|arg| arg.to_str().expect("text")).eq(words));
}
