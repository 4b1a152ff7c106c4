//! Separates text from escape sequences (ECMA-48; xterm's "Control Sequences").
//!
//! Crates for this decode UTF-8, and lose what is not valid. Here bytes stay bytes, a newline ends
//! every sequence, so that one without an end hides no further line, and memory is bounded.

/// A longer colour sequence or link does not pass. Some programs limit links to 2083 bytes.
const MAX_SEQUENCE_BYTES: usize = 4 << 10;

const BEL: u8 = 0x07;
const BACKSPACE: u8 = 0x08;
const ESC: u8 = 0x1b;
/// The first byte of the C1 control characters in UTF-8; the second one is the character.
const C1_LEAD: u8 = 0xc2;

/// A part of the output of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Token<'a> {
    /// Text, tabs and the bell, in arbitrary pieces.
    Text(&'a [u8]),
    /// The end of a line.
    Newline,
    /// The cursor goes to the beginning of the line.
    Return,
    /// The line is cleared.
    Erase,
    /// The line is cleared from the cursor on.
    EraseRest,
    /// The cursor goes back by one character.
    Backspace,
    /// A sequence that sets colours and attributes (SGR).
    Style(&'a [u8]),
    /// A sequence that begins or ends a link (OSC 8), which ends with ESC and a backslash.
    Link(&'a [u8]),
}

/// Finds the tokens in output that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    state: State,
    /// The current sequence, as far as it may pass.
    sequence: Vec<u8>,
    /// Whether it is dropped.
    is_dropped: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Text,
    /// After the first byte of a character that may be a control character.
    C1,
    /// After ESC.
    Escape,
    /// After ESC and a byte that another one follows, as in `ESC ( B`.
    EscapeIntermediate,
    /// In a control sequence (CSI).
    Control,
    /// In an operating system command (OSC).
    Command,
    /// In another string: DCS, SOS, PM, APC, or the title of a screen(1) window.
    String,
    /// In either of them, after a byte that may begin its end.
    StringEnd { is_command: bool, first: u8 },
}

impl Scanner {
    /// Whether the end of a sequence is missing.
    pub(super) fn is_mid_sequence(&self) -> bool {
        self.state != State::Text
    }

    pub(super) fn scan(&mut self, bytes: &[u8], mut emit: impl FnMut(Token)) {
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            if self.state == State::Text {
                let end = rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len());
                if end > 0 {
                    emit(Token::Text(&rest[..end]));
                    rest = &rest[end..];
                    continue;
                }
                self.text_control(*byte, &mut emit);
                rest = after;
            } else if self.advance(*byte, &mut emit) {
                rest = after;
            }
        }
    }

    /// Nothing follows.
    pub(super) fn finish(&mut self, mut emit: impl FnMut(Token)) {
        if self.state == State::C1 {
            emit(Token::Text(&[C1_LEAD]));
        }
        *self = Self::default();
    }

    /// A control character, or the beginning of one, between text.
    fn text_control(&mut self, byte: u8, emit: &mut impl FnMut(Token)) {
        match byte {
            b'\n' => emit(Token::Newline),
            b'\r' => emit(Token::Return),
            b'\t' | BEL => emit(Token::Text(&[byte])),
            BACKSPACE => emit(Token::Backspace),
            ESC => self.state = State::Escape,
            C1_LEAD => self.state = State::C1,
            _ => {}
        }
    }

    /// The next byte of a sequence. Returns false if it is not a part of it.
    fn advance(&mut self, byte: u8, emit: &mut impl FnMut(Token)) -> bool {
        match (self.state, byte) {
            (State::Text, _) => false,
            (State::C1, 0x80..=0x9f) => {
                // The same as ESC and this byte.
                self.begin(byte - 0x40);
                true
            }
            (State::C1, 0xa0..=0xbf) => {
                emit(Token::Text(&[C1_LEAD, byte]));
                self.end()
            }
            (State::C1, _) => {
                // If a sequence followed that does not pass, what comes after that could become
                // the second byte of a control character.
                if byte == b'\n' || !is_special(byte) {
                    emit(Token::Text(&[C1_LEAD]));
                }
                self.state = State::Text;
                false
            }
            // A newline ends everything; so do CAN and SUB.
            (_, b'\n' | 0x18 | 0x1a) => {
                self.end();
                byte != b'\n'
            }
            (State::Escape | State::EscapeIntermediate | State::Control, ESC) => {
                self.state = State::Escape;
                true
            }
            (State::Escape, 0x20..=0x2f) => {
                self.state = State::EscapeIntermediate;
                true
            }
            (State::Escape, 0x30..=0x7e) => {
                self.begin(byte);
                true
            }
            (State::EscapeIntermediate, 0x20..=0x2f) => true,
            (State::EscapeIntermediate, 0x30..=0x7e) => self.end(),
            (State::Control, 0x20..=0x3f) => self.collect(byte),
            (State::Control, 0x40..=0x7e) => {
                self.collect(byte);
                self.emit_control(emit);
                self.end()
            }
            (State::Escape | State::EscapeIntermediate | State::Control, _) => {
                self.end();
                false
            }
            (State::Command, BEL) => {
                self.emit_command(emit);
                self.end()
            }
            (State::Command | State::String, ESC | C1_LEAD) => {
                let is_command = self.state == State::Command;
                self.state = State::StringEnd { is_command, first: byte };
                true
            }
            (State::Command, _) => self.collect(byte),
            (State::String, _) => true,
            (State::StringEnd { is_command, first: ESC }, b'\\')
            | (State::StringEnd { is_command, first: C1_LEAD }, 0x9c) => {
                if is_command {
                    self.emit_command(emit);
                }
                self.end()
            }
            (State::StringEnd { first: ESC, .. }, _) => {
                self.state = State::Escape;
                false
            }
            (State::StringEnd { is_command, .. }, _) => {
                self.is_dropped = true;
                self.state = if is_command { State::Command } else { State::String };
                false
            }
        }
    }

    /// The byte after ESC.
    fn begin(&mut self, byte: u8) {
        self.sequence.clear();
        self.is_dropped = false;
        self.state = match byte {
            b'[' => State::Control,
            b']' => State::Command,
            b'P' | b'X' | b'^' | b'_' | b'k' => State::String,
            _ => State::Text,
        };
        self.sequence.extend_from_slice(&[ESC, byte]);
    }

    fn end(&mut self) -> bool {
        self.state = State::Text;
        true
    }

    fn collect(&mut self, byte: u8) -> bool {
        // A link is plain ASCII.
        self.is_dropped |=
            self.sequence.len() == MAX_SEQUENCE_BYTES || !(b' '..=b'~').contains(&byte);
        if !self.is_dropped {
            self.sequence.push(byte);
        }
        true
    }

    fn emit_control(&self, emit: &mut impl FnMut(Token)) {
        let [_, _, params @ .., end] = self.sequence.as_slice() else { return };
        let are_numbers = || params.iter().all(|it| matches!(it, b'0'..=b'9' | b';' | b':'));
        match (end, params) {
            _ if self.is_dropped => {}
            (b'm', _) if are_numbers() => emit(Token::Style(&self.sequence)),
            (b'G', b"" | b"0" | b"1") => emit(Token::Return),
            (b'K', b"" | b"0") => emit(Token::EraseRest),
            (b'K', b"2") => emit(Token::Erase),
            (_, _) => {}
        }
    }

    fn emit_command(&mut self, emit: &mut impl FnMut(Token)) {
        if !self.is_dropped && self.sequence[2..].starts_with(b"8;") {
            self.sequence.extend_from_slice(b"\x1b\\");
            emit(Token::Link(&self.sequence));
        }
    }
}

/// Whether this byte is something else than text.
fn is_special(byte: u8) -> bool {
    byte < b' ' || byte == 0x7f || byte == C1_LEAD
}
