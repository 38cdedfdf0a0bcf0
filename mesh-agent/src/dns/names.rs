//! Which names a query may mean (protocol note, section 9.1). Pure.

use std::ops::ControlFlow;

use hickory_proto::rr::Name;

/// A name as services have it: labels of visible ASCII, in lower case, without a last dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host(String);

impl Host {
    /// None for names that no service can have.
    pub(super) fn of(name: &Name) -> Option<Self> {
        let mut text = String::with_capacity(name.len());
        for label in name.iter() {
            if !text.is_empty() {
                text.push('.');
            }
            for byte in label {
                if !byte.is_ascii_graphic() || *byte == b'.' {
                    return None;
                }
                text.push(char::from(byte.to_ascii_lowercase()));
            }
        }
        (!text.is_empty()).then_some(Self(text))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where the client is, as far as names go. In lower case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) namespace: &'a str,
    /// The cluster's domain.
    pub(super) domain: &'a str,
}

/// A name to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a str,
    /// What was asked for, less the search domain that the client's resolver had added to it.
    pub(super) stripped: Option<&'a str>,
}

impl Candidate<'_> {
    /// Whether it stands for all names below it.
    pub(super) fn is_wildcard(&self) -> bool {
        self.name.starts_with("*.")
    }
}

/// Calls `attempt` with what `asked` may mean, the likeliest first, until that breaks off.
pub(super) fn each<T>(
    asked: &Host,
    scope: Scope<'_>,
    mut attempt: impl FnMut(Candidate<'_>) -> ControlFlow<T>,
) -> ControlFlow<T> {
    let asked = asked.as_str();
    let mut walk = Walk { scope, buffer: String::with_capacity(128), attempt: &mut attempt };
    walk.expand(asked, None)?;
    let in_domain = without(asked, scope.domain);
    let in_services = in_domain.and_then(|rest| without(rest, "svc"));
    let in_namespace = in_services.and_then(|rest| without(rest, scope.namespace));
    for stripped in [in_namespace, in_services, in_domain].into_iter().flatten() {
        walk.expand(stripped, Some(stripped))?;
    }
    ControlFlow::Continue(())
}

/// What is before the suffix, if that is something.
fn without<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    name.strip_suffix(suffix)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}

struct Walk<'a, F> {
    scope: Scope<'a>,
    /// The name that is being tried: all of them are made in one place.
    buffer: String,
    attempt: &'a mut F,
}

impl<F> Walk<'_, F> {
    /// Tries a name as it is and as people shorten Kubernetes' names.
    fn expand<T>(&mut self, name: &str, stripped: Option<&str>) -> ControlFlow<T>
    where
        F: FnMut(Candidate<'_>) -> ControlFlow<T>,
    {
        let Scope { namespace, domain } = self.scope;
        let of_services = name.ends_with(".svc");
        self.attempt(&[name], stripped)?;
        match name.split('.').count() {
            1 => self.attempt(&[name, namespace, "svc", domain], stripped),
            2 => {
                self.attempt(&[name, "svc", domain], stripped)?;
                self.attempt(&[name, namespace, "svc", domain], stripped)
            }
            3 => {
                if of_services {
                    self.attempt(&[name, domain], stripped)?;
                }
                self.attempt(&[name, "svc", domain], stripped)
            }
            4 if of_services => self.attempt(&[name, domain], stripped),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Tries the name that the parts make up, and then its wildcard parents.
    fn attempt<T>(&mut self, parts: &[&str], stripped: Option<&str>) -> ControlFlow<T>
    where
        F: FnMut(Candidate<'_>) -> ControlFlow<T>,
    {
        self.buffer.clear();
        for part in parts {
            if !self.buffer.is_empty() {
                self.buffer.push('.');
            }
            self.buffer.push_str(part);
        }
        (self.attempt)(Candidate { name: &self.buffer, stripped })?;
        let mut start = 0;
        while let Some(dot) = self.buffer[start..].find('.').map(|at| start + at) {
            start = dot + 1;
            // The parent is made where it stands: what is before it is not needed any more.
            if let Some((last, _)) = self.buffer[..dot].char_indices().next_back() {
                self.buffer.replace_range(last..dot, "*");
                (self.attempt)(Candidate { name: &self.buffer[last..], stripped })?;
                start = last + "*.".len();
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::{Host, Scope, each};

    const SCOPE: Scope<'_> = Scope { namespace: "shop", domain: "cluster.local" };

    fn host(name: &str) -> Host {
        Host::of(&Name::from_ascii(name).unwrap()).unwrap()
    }

    /// All that is tried, without the wildcards; what a search domain was taken from reads `name < stripped`.
    fn tried(name: &str) -> Vec<String> {
        all(&host(name), SCOPE).into_iter().filter(|name| !name.contains('*')).collect()
    }

    fn all(host: &Host, scope: Scope<'_>) -> Vec<String> {
        let mut all = Vec::new();
        let end = each(host, scope, |candidate| {
            assert_eq!(candidate.is_wildcard(), candidate.name.starts_with('*'));
            all.push(match candidate.stripped {
                Some(stripped) => format!("{} < {stripped}", candidate.name),
                None => candidate.name.to_owned(),
            });
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(end, ControlFlow::Continue(()));
        all
    }

    #[test]
    fn names_in_their_order() {
        let cases: [(&str, &[&str]); 16] = [
            ("a", &["a", "a.shop.svc.cluster.local"]),
            ("A.", &["a", "a.shop.svc.cluster.local"]),
            ("a.b", &["a.b", "a.b.svc.cluster.local", "a.b.shop.svc.cluster.local"]),
            ("a.b.c", &["a.b.c", "a.b.c.svc.cluster.local"]),
            ("a.b.svc", &["a.b.svc", "a.b.svc.cluster.local", "a.b.svc.svc.cluster.local"]),
            ("a.b.c.svc", &["a.b.c.svc", "a.b.c.svc.cluster.local"]),
            ("a.b.c.d", &["a.b.c.d"]),
            ("a.b.c.d.e", &["a.b.c.d.e"]),
            ("a.b.c.d.svc", &["a.b.c.d.svc"]),
            ("xsvc", &["xsvc", "xsvc.shop.svc.cluster.local"]),
            ("a.b.xsvc", &["a.b.xsvc", "a.b.xsvc.svc.cluster.local"]),
            (
                "a.shop.svc.cluster.local",
                &[
                    "a.shop.svc.cluster.local",
                    "a < a",
                    "a.shop.svc.cluster.local < a",
                    "a.shop < a.shop",
                    "a.shop.svc.cluster.local < a.shop",
                    "a.shop.shop.svc.cluster.local < a.shop",
                    "a.shop.svc < a.shop.svc",
                    "a.shop.svc.cluster.local < a.shop.svc",
                    "a.shop.svc.svc.cluster.local < a.shop.svc",
                ],
            ),
            (
                "www.example.com.shop.svc.cluster.local",
                &[
                    "www.example.com.shop.svc.cluster.local",
                    "www.example.com < www.example.com",
                    "www.example.com.svc.cluster.local < www.example.com",
                    "www.example.com.shop < www.example.com.shop",
                    "www.example.com.shop.svc < www.example.com.shop.svc",
                ],
            ),
            // Another namespace's search domain is none of this client's.
            (
                "a.b.other.svc.cluster.local",
                &[
                    "a.b.other.svc.cluster.local",
                    "a.b.other < a.b.other",
                    "a.b.other.svc.cluster.local < a.b.other",
                    "a.b.other.svc < a.b.other.svc",
                    "a.b.other.svc.cluster.local < a.b.other.svc",
                ],
            ),
            // Nothing is left of these.
            (
                "svc.cluster.local",
                &[
                    "svc.cluster.local",
                    "svc.cluster.local.svc.cluster.local",
                    "svc < svc",
                    "svc.shop.svc.cluster.local < svc",
                ],
            ),
            (
                "cluster.local",
                &["cluster.local", "cluster.local.svc.cluster.local", "cluster.local.shop.svc.cluster.local"],
            ),
        ];
        for (asked, expected) in cases {
            assert_eq!(tried(asked), expected, "{asked}");
        }
    }

    #[test]
    fn wildcards_follow_each_name() {
        let cases: [(&str, &[&str]); 3] = [
            (
                "a",
                &[
                    "a",
                    "a.shop.svc.cluster.local",
                    "*.shop.svc.cluster.local",
                    "*.svc.cluster.local",
                    "*.cluster.local",
                    "*.local",
                ],
            ),
            ("long.b.c.d.e", &["long.b.c.d.e", "*.b.c.d.e", "*.c.d.e", "*.d.e", "*.e"]),
            (
                "a.b.c.d.cluster.local",
                &[
                    "a.b.c.d.cluster.local",
                    "*.b.c.d.cluster.local",
                    "*.c.d.cluster.local",
                    "*.d.cluster.local",
                    "*.cluster.local",
                    "*.local",
                    "a.b.c.d < a.b.c.d",
                    "*.b.c.d < a.b.c.d",
                    "*.c.d < a.b.c.d",
                    "*.d < a.b.c.d",
                ],
            ),
        ];
        for (asked, expected) in cases {
            assert_eq!(all(&host(asked), SCOPE), expected, "{asked}");
        }
    }

    #[test]
    fn the_first_that_is_wanted_ends_it() {
        let mut count = 0;
        let end = each(&host("a.b"), SCOPE, |candidate| {
            count += 1;
            if candidate.name == "*.b" { ControlFlow::Break(candidate.name.len()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((end, count), (ControlFlow::Break(3), 2));
    }

    #[test]
    fn names_that_no_service_has() {
        let name = |labels: &[&[u8]]| Name::from_labels(labels.iter().copied()).unwrap();
        let none: [&[&[u8]]; 4] = [&[], &[b"a b"], &[b"a.b", b"c"], &[b"\xff"]];
        for labels in none {
            assert_eq!(Host::of(&name(labels)), None, "{labels:?}");
        }
        assert_eq!(Host::of(&name(&[b"_HTTP", b"*", b"x-1"])).unwrap().as_str(), "_http.*.x-1");
    }

    proptest! {
        /// Each name that is tried ends as the asked one does, or is in the cluster's domain.
        #[test]
        fn nothing_strange_is_tried(
            labels in prop::collection::vec("[a-z0-9_]{1,12}", 1..12), suffix in 0usize..4,
            namespace in "[a-zé.]{0,8}", domain in "[a-zé.]{0,12}",
        ) {
            let suffixes = ["", ".cluster.local", ".svc.cluster.local", ".shop.svc.cluster.local"];
            let asked = labels.join(".") + suffixes[suffix];
            prop_assume!(asked.len() < 250);
            let host = host(&asked);
            let tried = all(&host, SCOPE);
            prop_assert_eq!(&tried[0], &asked);
            // Four ways to read it, each with at most three expansions and their parents.
            prop_assert!(tried.len() <= 4 * 3 * (labels.len() + 8));
            for name in tried {
                let (name, stripped) = name.split_once(" < ").unwrap_or((&name, ""));
                let tail = name.trim_start_matches('*');
                prop_assert!(asked.ends_with(tail) || stripped.ends_with(tail) || "x.svc.cluster.local".ends_with(tail) || tail.ends_with(".svc.cluster.local"), "{name}");
                let before = stripped.to_owned() + ".";
                prop_assert!(stripped.is_empty() || asked.starts_with(&before));
            }
            // Whatever the configuration says, nothing panics.
            all(&host, Scope { namespace: &namespace, domain: &domain });
        }
    }
}
