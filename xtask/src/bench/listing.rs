//! Figures for people, one a line, each beside its goal where there is one.

/// Name, what was found, the goal and whether it was met.
#[derive(Debug)]
pub(super) struct Line(pub(super) String, pub(super) String, pub(super) String);

pub(super) fn listing(lines: &[Line]) -> String {
    lines
        .iter()
        .map(|Line(name, found, goal)| format!("{name:<52} {found:>24}   {goal}").trim_end().to_owned() + "\n")
        .collect()
}

/// The goal in words: at most `limit`.
pub(super) fn goal(found: f64, limit: f64, unit: &str) -> String {
    let missed = if found <= limit { "" } else { "MISSED: " };
    format!("{missed}goal {limit} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_is_marked() {
        assert_eq!(goal(5.0, 5.0, "ms"), "goal 5 ms");
        assert_eq!(goal(5.1, 5.0, "ms"), "MISSED: goal 5 ms");
    }

    #[test]
    fn columns() {
        let lines = [
            Line("a".to_owned(), "1 ms".to_owned(), goal(1.0, 2.0, "ms")),
            Line("b".to_owned(), "2".to_owned(), String::new()),
        ];
        let (gap, end) = (" ".repeat(51), " ".repeat(20));
        assert_eq!(listing(&lines), format!("a{gap} {end}1 ms   goal 2 ms\nb{gap} {end}   2\n"));
    }
}
