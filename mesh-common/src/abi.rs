//! Marks, ports and the ABI number.

/// Number of the layout of everything pinned; a change of any map or program contract raises it.
pub const ABI: u32 = 5;

/// Mark on every socket of the agent inside a pod (Istio's 0x539).
pub const AGENT_MARK: u32 = 0x539;
/// Mark on every captured packet (Istio's 0x111), which the policy route delivers locally.
pub const CAPTURED_MARK: u32 = 0x111;
/// Mark on packets of inbound connections that a pod has left to itself, and so on the sockets that accept them.
pub const BYPASSED_MARK: u32 = 0x222;
/// The bits of a packet mark that the mesh uses.
pub const MARK_MASK: u32 = 0xfff;

/// Listener for outbound connections captured in the pod.
pub const OUTBOUND_PORT: u16 = 15001;
/// Listener for inbound plaintext connections captured in the pod.
pub const PLAINTEXT_PORT: u16 = 15006;
/// Listener for HBONE: mutual TLS with HTTP/2 CONNECT inside.
pub const HBONE_PORT: u16 = 15008;

/// Listener for DNS over TCP, and the sockets for DNS over UDP, captured in the pod.
pub const DNS_PORT: u16 = 15053;

/// Where name servers listen.
pub const NAME_SERVER_PORT: u16 = 53;

/// Routing table that delivers captured packets locally.
pub const ROUTE_TABLE: u32 = 100;
/// Priority of the rule that sends captured packets there.
pub const RULE_PRIORITY: u32 = 32764;
