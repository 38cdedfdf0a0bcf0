//! Tells code from comments and literals; all that a text scan needs to know of Rust's grammar.

/// The same text with every byte of a comment, and of what a literal contains, made a space; line breaks stay.
pub(super) fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = token(bytes, at);
        if end > at + 1 {
            code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        }
        at = end;
    }
    // A character of several bytes outside of comments and literals is no Rust; it is not worth a failure here.
    String::from_utf8_lossy(&code).into_owned()
}

/// The end of what starts at `at`: more than one byte when it is to be blanked.
fn token(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => comment(bytes, at),
        [b'"', ..] => string(bytes, at),
        [b'r', b'"' | b'#', ..] if !word_before => raw(bytes, at, at + 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !word_before => raw(bytes, at, at + 2),
        [b'\'', ..] => character(bytes, at),
        _ => at + 1,
    }
}

fn comment(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn raw(bytes: &[u8], start: usize, hashes: usize) -> usize {
    let count = bytes[hashes..].iter().take_while(|byte| **byte == b'#').count();
    let open = hashes + count;
    if bytes.get(open) != Some(&b'"') {
        return start + 1;
    }
    let mut close = vec![b'"'];
    close.resize(count + 1, b'#');
    let found = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    found.map_or(bytes.len(), |offset| open + 1 + offset + close.len())
}

/// A character, or else a lifetime, which is left alone.
fn character(bytes: &[u8], start: usize) -> usize {
    match &bytes[start..] {
        [_, b'\\', _, rest @ ..] => start + 3 + rest.iter().position(|byte| *byte == b'\'').map_or(0, |end| end + 1),
        [_, first, rest @ ..] => {
            let length = usize::from(*first >= 0x80) * rest.iter().take_while(|byte| **byte & 0xc0 == 0x80).count();
            if rest.get(length) == Some(&b'\'') { start + 3 + length } else { start + 1 }
        }
        _ => start + 1,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
