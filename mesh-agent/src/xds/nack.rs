//! What is said to istiod about resources that were rejected (protocol note, section 1.6).

use super::response::Rejected;

/// Longest text of one reason, and of all: a response in which everything is wrong must not be answered by one as large.
const ONE: usize = 512;
const ALL: usize = 16 * 1024;

/// `<name>: <reason>` of each, joined by `; `.
pub(super) fn message(rejected: &[Rejected]) -> String {
    let mut text = String::new();
    for (index, Rejected { name, reason }) in rejected.iter().enumerate() {
        if index > 0 {
            text.push_str("; ");
        }
        if text.len() > ALL {
            text.push_str(&format!("and {} more", rejected.len() - index));
            break;
        }
        text.push_str(cut(name));
        text.push_str(": ");
        text.push_str(cut(reason));
    }
    text
}

/// The first part of a text.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(ONE)]
}

#[cfg(test)]
mod tests {
    use super::{ALL, Rejected, cut, message};

    #[test]
    fn names_and_reasons() {
        let rejected = [Rejected::new("a/b", "no port"), Rejected::new("c", "x: y")];
        assert_eq!(message(&rejected), "a/b: no port; c: x: y");
        assert_eq!(message(&rejected[..1]), "a/b: no port");
    }

    #[test]
    fn a_thousand_reasons_are_cut_short() {
        let rejected: Vec<_> = (0..1000).map(|_| Rejected::new("n", "é".repeat(1000))).collect();
        let text = message(&rejected);
        assert!(text.len() < ALL + 1100, "{}", text.len());
        assert!(text.ends_with(" more"), "{text}");
    }

    #[test]
    fn a_cut_is_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&format!("a{}", "é".repeat(300))).len(), 511);
    }
}
