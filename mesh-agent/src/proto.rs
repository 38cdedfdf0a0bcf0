//! Generated wire types, written by `cargo xtask proto` from `mesh-agent/proto` and committed.
//!
//! Only `identity::ca`, `xds`, `zds` and `control` may import them: everything else speaks the model's types. Fields of type
//! `bytes` are slices of the message they came in, which lives as long as any of them: what is kept is to be copied.

macro_rules! generated {
    ($($(#[$doc:meta])* $module:ident = $file:literal),* $(,)?) => {$(
        $(#[$doc])*
        #[allow(
            clippy::all,
            clippy::pedantic,
            missing_debug_implementations,
            unreachable_pub,
            clippy::wildcard_enum_match_arm,
            clippy::clone_on_ref_ptr,
            clippy::allow_attributes_without_reason,
            reason = "generated code"
        )]
        pub mod $module {
            include!(concat!("proto/gen/", $file, ".rs"));
        }
    )*};
}

generated! {
    /// Certificate signing: `proto/ca.proto`.
    ca = "istio.v1.auth",
    /// Delta discovery: `proto/discovery.proto`.
    discovery = "envoy.service.discovery.v3",
    /// Authorization policies: `proto/authorization.proto`.
    security = "istio.security",
    /// Services and workloads: `proto/workload.proto`.
    workload = "istio.workload",
    /// What a CNI agent and the node proxy say to each other: `proto/zds.proto`.
    zds = "istio.workload.zds",
}

#[cfg(test)]
mod tests;
