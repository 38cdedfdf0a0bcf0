//! TLS 1.3 for tunnels. rustls shakes hands, judges and agrees on keys; from then on records are protected here, out of the
//! buffer they are in into the one they go to, so that encrypting is the only pass over the bytes.
//!
//! [`handshake`] connects and accepts, [`stream`] is what comes of it. Below: [`keys`] protects single records,
//! [`reading`] and [`writing`] are the two directions over buffers, [`messages`] is what a peer says in between, [`buffer`] lends memory.
//! Nothing here knows who may talk to whom: that is in the rustls configurations it is given.

pub mod handshake;
pub mod stream;

mod buffer;
mod keys;
mod messages;
mod reading;
mod writing;

#[cfg(test)]
mod tests;
