//! Generated wire types, written by `cargo xtask proto` from `mesh-agent/proto` and committed.
//!
//! Only `identity::ca` and `control` may import them: everything else speaks the model's types.

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
pub mod ca {
    include!("proto/gen/istio.v1.auth.rs");
}
