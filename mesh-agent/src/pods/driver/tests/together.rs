//! Many pods at once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{NO_TIME, Node, Paper, pod, run};
use crate::pods::driver::OnShutdown;
use crate::pods::driver::enrolling::AT_ONCE;

#[test]
fn pods_are_enrolled_together_and_not_all_at_once() {
    run(async {
        let paper = Paper { slow: Duration::from_millis(100), ..Paper::failing(&[("enrol 7", 1)]) };
        let wanted: Vec<_> = (0..AT_ONCE * 3).map(|number| pod(&number.to_string())).collect();
        let began = Instant::now();
        let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &wanted);
        let all = node.statuses.wait_for(|pods| pods.len() == wanted.len()).await.unwrap().clone();
        let took = began.elapsed();
        let captured = all.iter().filter(|pod| pod.state.is_captured()).count();
        assert_eq!(captured, wanted.len() - 1, "one failed, and the others did not notice");
        assert_eq!(node.paper.busy.1.load(Ordering::SeqCst), AT_ONCE);
        assert!(took < Duration::from_millis(100) * u32::try_from(wanted.len()).unwrap() / 2, "{took:?}");
        let again = |pods: &Vec<_>| pods.iter().all(|pod: &super::PodStatus| pod.state.is_captured());
        drop(node.statuses.wait_for(again).await.unwrap());
        for number in 0..wanted.len() {
            let expected = if number == 7 { 2 } else { 1 };
            let calls = node.paper.calls();
            assert_eq!(calls.iter().filter(|call| **call == format!("enrol {number}")).count(), expected, "{number}");
        }
        node.finish().await;
    });
}

/// A runtime waits for each new pod by itself.
#[test]
fn a_new_pod_does_not_wait_for_those_that_are_being_enrolled() {
    run(async {
        let paper = Paper { slow: Duration::from_millis(300), ..Paper::default() };
        let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &[pod("a")]);
        node.until_called("enrol a", 1).await;
        node.want(&[pod("a"), pod("b")]);
        let all = node.statuses.wait_for(|pods| pods.len() == 2).await.unwrap().clone();
        assert!(all.iter().all(|pod| pod.state.is_captured()));
        assert_eq!(node.paper.busy.1.load(Ordering::SeqCst), 2, "both at once");
        node.want(&[pod("b")]);
        node.until(&["b enrolled"]).await;
        assert_eq!(node.paper.calls().iter().filter(|call| call.starts_with("enrol")).count(), 2, "each once");
        node.finish().await;
    });
}

#[test]
fn what_has_changed_while_pods_joined_is_done_after_them() {
    run(async {
        let paper = Paper { slow: Duration::from_millis(300), ..Paper::default() };
        let mut node = Node::start(paper, OnShutdown::Keep, NO_TIME, &[pod("a")]);
        node.until(&["a enrolled"]).await;
        node.want(&[pod("a"), pod("b")]);
        node.until_called("enrol b", 1).await;
        node.want(&[pod("b"), pod("c")]);
        node.until(&["b enrolled", "c enrolled"]).await;
        node.until_called("withdraw a", 1).await;
        node.finish().await;
    });
}
