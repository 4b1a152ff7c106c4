//! Input as a user writes it on a command line, with escapes.

use std::iter::Peekable;
use std::str::Chars;

/// A text with its escapes resolved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Input(Vec<u8>);

impl Input {
    /// What is typed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::str::FromStr for Input {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            if char == '\\' {
                bytes.push(read_escape(&mut chars)?);
            } else {
                bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Ok(Self(bytes))
    }
}

/// Reads what follows a backslash.
fn read_escape(chars: &mut Peekable<Chars>) -> Result<u8, String> {
    let escape = chars.next();
    Ok(match escape {
        Some('n') => b'\n',
        Some('r') => b'\r',
        Some('t') => b'\t',
        Some('e') => 0x1b,
        Some('0') => 0,
        Some('\\') => b'\\',
        Some('x') => {
            let digits: String = chars.by_ref().take(2).collect();
            let byte = u8::from_str_radix(&digits, 16)
                .ok()
                .filter(|_| digits.bytes().all(|it| it.is_ascii_hexdigit()) && digits.len() == 2);
            byte.ok_or("`\\x` needs two hexadecimal digits, as in `\\x03`")?
        }
        Some(_) | None => {
            let unknown = escape.map(String::from).unwrap_or_default();
            return Err(format!(
                "`\\{unknown}` is not an escape: expected \\n, \\r, \\t, \\e, \\0, \\\\ or \\xHH"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved() {
        let parse = |text: &str| text.parse::<Input>().map(|input| input.0);
        assert_eq!(parse("né\\n"), Ok("né\n".as_bytes().to_vec()));
        assert_eq!(parse("\\x03\\xfF\\e[A\\\\n\\t\\r\\0"), Ok(b"\x03\xff\x1b[A\\n\t\r\0".to_vec()));
        for text in ["\\", "\\q", "\\x1", "\\x+1", "\\xzz"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
