//! Which pods a process may belong to, by the names of its control groups.

use std::borrow::Cow;

/// The uids in the text of a `/proc/PID/cgroup`, of whatever version or controller: the kubelet calls a pod's group
/// `pod<uid>`, or with systemd `kubepods-<class>-pod<uid>.slice`, where the uid has `_` for `-`. A node that is itself a pod
/// of another node has the other node's pod in its paths, too; and some of what this gives is no uid at all.
pub(super) fn pods(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    // hierarchy:controllers:path, and the path may have any character.
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).filter_map(uid)
}

fn uid(group: &str) -> Option<Cow<'_, str>> {
    match group.strip_suffix(".slice") {
        None => group.strip_prefix("pod").map(Cow::Borrowed),
        // systemd takes each `-` for a level of the tree, so that none is left in a uid.
        Some(slice) => slice.rsplit('-').next()?.strip_prefix("pod").map(|uid| Cow::Owned(uid.replace('_', "-"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::pods;

    const UID: &str = "0c5b0b5e-7c0c-4c0e-9a55-2d2a6f5b8a11";
    /// Of a pod that comes from a file of the node.
    const STATIC: &str = "6a3bfbb7e2f0d0a4d3f0f6f9d6c2b1a0";

    #[test]
    fn as_they_are_written() {
        let systemd = "0c5b0b5e_7c0c_4c0e_9a55_2d2a6f5b8a11";
        let cases = [
            (format!("0::/kubepods/burstable/pod{UID}/4f1c\n"), vec![UID]),
            (format!("0::/kubepods/pod{UID}\n"), vec![UID]),
            (
                format!(
                    "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd}.slice/cri-containerd-4f1c.scope\n"
                ),
                vec![UID],
            ),
            (format!("0::/kubepods.slice/kubepods-pod{systemd}.slice/crio-4f1c.scope/container\n"), vec![UID]),
            (format!("12:memory:/kubepods/besteffort/pod{STATIC}/4f1c\n1:name=systemd:/\n0::/\n"), vec![STATIC]),
            (format!("4:cpu,cpuacct:/kubepods/pod{UID}/a\n3:pids:/kubepods/pod{UID}/a\n"), vec![UID, UID]),
            (format!("0::/../../kubepods/burstable/pod{UID}/x\n"), vec![UID]),
            (format!("0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{systemd}.slice/x\n"), vec![UID]),
            (format!("0::/kubepods/pod{STATIC}/a/kubelet/kubepods/pod{UID}/b\n"), vec![STATIC, UID]),
            ("0::/system.slice/docker-4f1c.scope\n".to_owned(), vec![]),
            ("0::/user.slice/libpod-4f1c.scope\n0::/machine.slice/libpod_pod.slice\n".to_owned(), vec![]),
            ("0::/\n::\nnonsense\n\n".to_owned(), vec![]),
        ];
        for (text, expected) in cases {
            assert_eq!(pods(&text).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "(\\PC|[:/\n-]|pod|\\.slice){0,60}") {
            let _never_panics = pods(&text).count();
        }
    }
}
