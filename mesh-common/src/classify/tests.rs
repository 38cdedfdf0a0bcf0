//! Tables, and laws that are tried on every flow of a small world.

use core::net::IpAddr;

use super::{
    ACK, Egress, Entering, FIN, Flow, Ingress, RST, SYN, asks_name_server, egress as marked, entering, ingress,
};
use crate::abi::{
    AGENT_MARK, BYPASSED_MARK, CAPTURED_MARK, DNS_PORT, HBONE_PORT, MARK_MASK, OUTBOUND_PORT, PLAINTEXT_PORT,
};
use crate::maps::{Address, MAX_NODE_ADDRESSES, Phase, PodConfig, mapped};

const POD: [u8; 4] = [10, 40, 1, 10];
const NODE: [u8; 4] = [172, 30, 0, 1];
const FAR: [u8; 4] = [10, 40, 2, 10];

fn config(phase: Phase) -> PodConfig {
    let mut config = PodConfig { phase: phase as u32, node_count: 1, ..PodConfig::EMPTY };
    config.probe_ports.insert(8080);
    config.node_addresses[0] = mapped(NODE);
    config
}

fn flow(source: ([u8; 4], u16), destination: ([u8; 4], u16), flags: u8) -> Flow {
    Flow {
        source: mapped(source.0),
        destination: mapped(destination.0),
        source_port: source.1,
        destination_port: destination.1,
        flags,
    }
}

/// What becomes of a packet without a mark.
fn egress(config: &PodConfig, flow: &Flow) -> Egress {
    marked(config, flow, 0)
}

#[test]
fn outbound() {
    use Phase::{Attaching, Draining, Learning, Strict};
    let cases = [
        (Strict, flow((POD, 4000), (FAR, 80), SYN), Egress::Capture),
        (Learning, flow((POD, 4000), (FAR, 80), SYN), Egress::Capture),
        (Draining, flow((POD, 4000), (FAR, 80), SYN), Egress::Pass),
        (Attaching, flow((POD, 4000), (FAR, 80), SYN), Egress::Pass),
        (Strict, flow((POD, 4000), (FAR, 80), ACK), Egress::LoopUnlessOlder),
        (Learning, flow((POD, 4000), (FAR, 80), ACK), Egress::LoopIfProxied),
        (Draining, flow((POD, 4000), (FAR, 80), ACK), Egress::LoopIfProxied),
        (Attaching, flow((POD, 4000), (FAR, 80), ACK), Egress::LoopIfProxied),
        (Strict, flow((POD, 8080), (FAR, 4000), SYN | ACK), Egress::LoopUnlessOlder),
        (Strict, flow((POD, 8080), (NODE, 4000), SYN | ACK), Egress::PassProbe),
        (Strict, flow((POD, 8081), (NODE, 4000), SYN | ACK), Egress::LoopUnlessOlder),
        // A pod cannot use the probe rule to open connections of its own.
        (Strict, flow((POD, 8080), (NODE, 4000), SYN), Egress::Capture),
    ];
    for (phase, flow, expected) in cases {
        assert_eq!(egress(&config(phase), &flow), expected, "{phase:?} {flow:?}");
    }
}

/// Protocol note, section 11.4: port 53 to anywhere but loopback, which never comes this way.
#[test]
fn what_name_servers_are_asked() {
    let address = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    };
    let to = |destination: &str, port: u16, flags: u8| Flow {
        source: address(if destination.contains(':') { "fd00::1" } else { "10.40.1.10" }),
        destination: address(destination),
        source_port: 4000,
        destination_port: port,
        flags,
    };
    let cases = [
        ("10.96.0.10", 53, true),
        ("10.96.0.10", 54, false),
        ("10.96.0.10", 5353, false),
        ("169.254.20.10", 53, true),
        ("8.8.8.8", 53, true),
        ("223.255.255.1", 53, true),
        ("224.0.0.251", 53, false),
        ("255.255.255.255", 53, false),
        ("fd00::10", 53, true),
        ("fd00::10", 80, false),
        ("2001:4860:4860::8888", 53, true),
        ("64:ff9b::e000:fb", 53, true),
        ("fec0::1", 53, true),
        ("fe80::1", 53, false),
        ("febf::1", 53, false),
        ("ff02::fb", 53, false),
    ];
    let with = |phase, dns| PodConfig { dns, ..config(phase) };
    for (destination, port, asks) in cases {
        for phase in [Phase::Learning, Phase::Strict] {
            let (datagram, opening) = (to(destination, port, 0), to(destination, port, SYN));
            assert_eq!(asks_name_server(&with(phase, 1), &datagram), asks, "{destination} {port}");
            assert!(!asks_name_server(&with(phase, 0), &datagram), "{destination} {port}");
            let expected = if asks { Egress::Ask } else { Egress::Capture };
            assert_eq!(egress(&with(phase, 1), &opening), expected, "{destination} {port}");
            assert_eq!(egress(&with(phase, 0), &opening), Egress::Capture, "{destination} {port}");
            let later = to(destination, port, ACK);
            assert_eq!(egress(&with(phase, 1), &later), egress(&with(phase, 0), &later), "{destination} {port}");
        }
        for passing in [with(Phase::Draining, 1), with(Phase::Attaching, 1)] {
            assert!(!asks_name_server(&passing, &to(destination, port, 0)), "{destination} {port}");
            assert_eq!(egress(&passing, &to(destination, port, SYN)), Egress::Pass, "{destination} {port}");
        }
    }
}

#[test]
fn inbound() {
    use Phase::{Attaching, Draining, Learning, Strict};
    let cases = [
        (Strict, flow((FAR, 4000), (POD, 80), SYN), Ingress::Listener(15006)),
        (Strict, flow((FAR, 4000), (POD, 15008), SYN), Ingress::Listener(15008)),
        (Strict, flow((FAR, 4000), (POD, 80), ACK), Ingress::ListenerIfUnknown(15006)),
        (Strict, flow((FAR, 4000), (POD, 15008), ACK), Ingress::Pass),
        (Strict, flow((NODE, 4000), (POD, 8080), SYN), Ingress::PassProbe),
        (Strict, flow((NODE, 4000), (POD, 8081), SYN), Ingress::Listener(15006)),
        (Strict, flow((FAR, 4000), (POD, 8080), SYN), Ingress::Listener(15006)),
        (Learning, flow((FAR, 4000), (POD, 80), SYN), Ingress::Listener(15006)),
        (Learning, flow((FAR, 4000), (POD, 80), ACK), Ingress::Pass),
        (Draining, flow((FAR, 4000), (POD, 80), SYN), Ingress::Pass),
        (Attaching, flow((FAR, 4000), (POD, 80), SYN), Ingress::Pass),
    ];
    for (phase, flow, expected) in cases {
        assert_eq!(ingress(&config(phase), &flow), expected, "{phase:?} {flow:?}");
    }
}

/// A phase that no agent writes.
const UNKNOWN_PHASE: u32 = 7;

const PASSING: [u32; 2] = [Phase::Draining as u32, Phase::Attaching as u32];
const PHASES: [u32; 5] = [Phase::Learning as u32, Phase::Strict as u32, PASSING[0], PASSING[1], UNKNOWN_PHASE];
const ECE: u8 = 0x40;
const FLAGS: [u8; 8] = [0, SYN, ACK, SYN | ACK, FIN | ACK, RST, SYN | ECE, SYN | ACK | ECE];
const SECOND_NODE: [u8; 4] = [172, 30, 0, 2];
const PEERS: [[u8; 4]; 4] = [NODE, SECOND_NODE, FAR, POD];
const PORTS: [u16; 7] = [8080, 8081, 80, 0, HBONE_PORT, PLAINTEXT_PORT, OUTBOUND_PORT];

/// Both nodes are written down, and the count says how many of them count; more than there is room for is what a broken
/// agent might write.
fn configs() -> impl Iterator<Item = PodConfig> {
    let probed: [&[u16]; 3] = [&[], &[8080], &[8080, 8081]];
    let all = PHASES.into_iter().flat_map(move |phase| probed.into_iter().map(move |probes| (phase, probes)));
    all.flat_map(move |(phase, probes)| {
        [0, 1, 2, 8, 9, u32::MAX].into_iter().map(move |node_count| {
            let mut config = PodConfig { phase, node_count, ..PodConfig::EMPTY };
            probes.iter().for_each(|port| config.probe_ports.insert(*port));
            config.node_addresses[..2].copy_from_slice(&[mapped(NODE), mapped(SECOND_NODE)]);
            config
        })
    })
}

/// Packets between the pod and its peers, from the pod's side: `(peer, peer's port, own port, flags)`.
fn packets() -> impl Iterator<Item = ([u8; 4], u16, u16, u8)> {
    PEERS.into_iter().flat_map(|peer| {
        [4000, HBONE_PORT].into_iter().flat_map(move |far| {
            PORTS.into_iter().flat_map(move |own| FLAGS.into_iter().map(move |flags| (peer, far, own, flags)))
        })
    })
}

/// What a kubelet's probe is: from an address of the node to a port that the pod declares.
fn probed(config: &PodConfig, peer: &Address, port: u16) -> bool {
    let counted = usize::try_from(config.node_count).unwrap().min(MAX_NODE_ADDRESSES);
    config.probe_ports.contains(port) && config.node_addresses[..counted].contains(peer)
}

#[test]
fn laws_of_what_leaves() {
    for config in configs() {
        for (peer, far, own, flags) in packets() {
            let flow = flow((POD, own), (peer, far), flags);
            let verdict = egress(&config, &flow);
            let opens = flags & SYN != 0 && flags & ACK == 0;
            let passing = PASSING.contains(&config.phase);
            // Whatever the pod declares, what it opens itself is taken.
            assert_eq!(verdict == Egress::Capture, opens && !passing, "{config:?} {flow:?}");
            assert_eq!(verdict == Egress::Pass, opens && passing, "{config:?} {flow:?}");
            let answer = !opens && probed(&config, &mapped(peer), own);
            assert_eq!(verdict == Egress::PassProbe, answer, "{config:?} {flow:?}");
            let strict = config.phase == Phase::Strict as u32;
            assert_eq!(verdict == Egress::LoopUnlessOlder, strict && !opens && !answer, "{config:?} {flow:?}");
        }
    }
}

#[test]
fn laws_of_what_arrives() {
    for config in configs() {
        for (peer, far, own, flags) in packets() {
            let flow = flow((peer, far), (POD, own), flags);
            let verdict = ingress(&config, &flow);
            let opens = flags & SYN != 0 && flags & ACK == 0;
            let probe = probed(&config, &mapped(peer), own);
            assert_eq!(verdict == Ingress::PassProbe, probe, "{config:?} {flow:?}");
            if probe {
                continue;
            }
            let listener = if own == HBONE_PORT { HBONE_PORT } else { PLAINTEXT_PORT };
            let expected = match (config.phase, opens) {
                (phase, true) if PASSING.contains(&phase) => Ingress::Pass,
                (_, true) => Ingress::Listener(listener),
                // Whatever has no socket meets the agent, or the agent's own port.
                (phase, false) if phase == Phase::Strict as u32 && own != HBONE_PORT => {
                    Ingress::ListenerIfUnknown(PLAINTEXT_PORT)
                }
                (_, false) => Ingress::Pass,
            };
            assert_eq!(verdict, expected, "{config:?} {flow:?}");
        }
    }
}

/// A probe that comes in gets its answer out, and nothing else goes that way.
#[test]
fn probes_pass_both_ways_or_not_at_all() {
    for config in configs() {
        for (peer, far, own, _) in packets() {
            let asked = ingress(&config, &flow((peer, far), (POD, own), SYN)) == Ingress::PassProbe;
            for flags in [SYN | ACK, ACK, FIN | ACK, RST] {
                let answered = egress(&config, &flow((POD, own), (peer, far), flags)) == Egress::PassProbe;
                assert_eq!(asked, answered, "{config:?} {peer:?}:{far} to port {own}");
            }
        }
    }
}

#[test]
fn of_the_flags_only_syn_and_ack_matter() {
    for config in configs().filter(|config| config.probe_ports.contains(8080) && config.node_count == 1) {
        for (peer, own) in [(NODE, 8080), (FAR, 80), (FAR, HBONE_PORT)] {
            for flags in 0..=u8::MAX {
                let (out, back) =
                    (|flags| flow((POD, own), (peer, 4000), flags), |flags| flow((peer, 4000), (POD, own), flags));
                let plain = flags & (SYN | ACK);
                assert_eq!(egress(&config, &out(flags)), egress(&config, &out(plain)), "{flags:#x}");
                assert_eq!(ingress(&config, &back(flags)), ingress(&config, &back(plain)), "{flags:#x}");
            }
        }
    }
}

/// The two ends of a connection know it under mirrored keys.
#[test]
fn keys_are_mirrored() {
    let there = flow((POD, 4000), (FAR, 80), SYN);
    let back = flow((FAR, 80), (POD, 4000), SYN | ACK);
    assert_eq!(there.as_sender(), back.as_receiver());
    assert_eq!(there.as_receiver(), back.as_sender());
    assert_eq!((there.as_sender().local, there.as_sender().local_port), (mapped(POD), 4000));
    assert_ne!(there.as_sender(), there.as_receiver());
}

fn bypassing(phase: Phase) -> PodConfig {
    PodConfig { bypass_inbound: 1, ..config(phase) }
}

const ALL_PHASES: [Phase; 4] = [Phase::Learning, Phase::Strict, Phase::Draining, Phase::Attaching];

#[test]
fn what_bypasses_the_capture_on_its_way_in() {
    for phase in ALL_PHASES {
        let cases = [
            (flow((FAR, 4000), (POD, 80), SYN), Ingress::Bypass),
            (flow((FAR, 4000), (POD, 80), ACK), Ingress::Bypass),
            (flow((FAR, 4000), (POD, 80), RST), Ingress::Bypass),
            (flow((FAR, 80), (POD, 4000), SYN | ACK), Ingress::Bypass),
            (flow((NODE, 4000), (POD, 8081), SYN), Ingress::Bypass),
            (flow((NODE, 4000), (POD, 8080), SYN), Ingress::PassProbe),
        ];
        for (flow, expected) in cases {
            assert_eq!(ingress(&bypassing(phase), &flow), expected, "{phase:?} {flow:?}");
        }
        // Tunnels are served, and the agent's other listeners are not reached by themselves.
        for port in [HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT, DNS_PORT] {
            for flags in FLAGS {
                let flow = flow((FAR, 4000), (POD, port), flags);
                assert_eq!(ingress(&bypassing(phase), &flow), ingress(&config(phase), &flow), "{phase:?} {flow:?}");
            }
        }
    }
}

/// What the pod opens, and what the agent carries for it, goes as in any other pod.
#[test]
fn a_bypass_is_for_what_comes_in() {
    for phase in ALL_PHASES {
        for (peer, far, own, flags) in packets().filter(|(.., flags)| flags & RST == 0) {
            let flow = flow((POD, own), (peer, far), flags);
            assert_eq!(egress(&bypassing(phase), &flow), egress(&config(phase), &flow), "{phase:?} {flow:?}");
        }
    }
}

/// Whatever the pod's setting and phase are by then; but nothing that the pod opens gets out by a mark.
#[test]
fn answers_are_known_by_their_mark() {
    for config in configs().flat_map(|config| [config, PodConfig { bypass_inbound: 1, ..config }]) {
        for (peer, far, own, flags) in packets() {
            let flow = flow((POD, own), (peer, far), flags);
            let opens = flags & SYN != 0 && flags & ACK == 0;
            let (plain, verdict) = (egress(&config, &flow), marked(&config, &flow, BYPASSED_MARK | 0x5000));
            let expected = if opens || plain == Egress::PassProbe { plain } else { Egress::PassBypassed };
            assert_eq!(verdict, expected, "{config:?} {flow:?}");
            for other in [CAPTURED_MARK, 0x5000, BYPASSED_MARK | 1] {
                assert_eq!(marked(&config, &flow, other), plain, "{other:#x} {config:?} {flow:?}");
            }
        }
    }
}

/// Where nobody listens the stack answers by a reset, and no socket gives that a mark.
#[test]
fn a_pod_that_is_reached_uncaptured_may_refuse() {
    for phase in ALL_PHASES {
        for flags in [RST, RST | ACK] {
            let refusal = flow((POD, 80), (FAR, 4000), flags);
            assert_eq!(egress(&bypassing(phase), &refusal), Egress::ResetIfProxied, "{phase:?}");
            assert_ne!(egress(&config(phase), &refusal), Egress::ResetIfProxied, "{phase:?}");
        }
    }
}

#[test]
fn marks_differ_in_the_bits_that_count() {
    let marks = [AGENT_MARK, CAPTURED_MARK, BYPASSED_MARK];
    for (at, mark) in marks.iter().enumerate() {
        assert_eq!(mark & MARK_MASK, *mark);
        assert!(*mark != 0 && !marks[..at].contains(mark), "{mark:#x}");
    }
}

/// To wherever: even the pod's own addresses and name servers are no exception, as with Istio's rules.
#[test]
fn what_a_virtual_machine_opens_is_captured() {
    for config in configs() {
        for (peer, far, own, flags) in packets() {
            let flow = flow((FAR, own), (peer, far), flags);
            let opens = flags & SYN != 0 && flags & ACK == 0;
            let expected = match (opens, PASSING.contains(&config.phase)) {
                (true, false) => Entering::Capture,
                (true, true) => Entering::Pass,
                (false, _) => Entering::LoopIfProxied,
            };
            for config in [config, PodConfig { bypass_inbound: 1, dns: 1, ..config }] {
                assert_eq!(entering(&config, &flow), expected, "{config:?} {flow:?}");
            }
        }
    }
}
