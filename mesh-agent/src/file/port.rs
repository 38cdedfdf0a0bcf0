//! A port as it is written: a number from 1 to 65535, and a sentence for everything else.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A port, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    pub fn number(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Number)
    }
}

struct Number;

impl Number {
    fn read<E: Error>(written: impl fmt::Display, number: Option<u16>) -> Result<Port, E> {
        match number {
            Some(port) if port > 0 => Ok(Port(port)),
            _ => Err(E::custom(format!("{written} is not a port; write a number from 1 to 65535"))),
        }
    }
}

impl Visitor<'_> for Number {
    type Value = Port;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port from 1 to 65535")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Port, E> {
        Self::read(number, u16::try_from(number).ok())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Port, E> {
        Self::read(number, u16::try_from(number).ok())
    }

    /// A map's key comes as text.
    fn visit_str<E: Error>(self, text: &str) -> Result<Port, E> {
        Self::read(format!("{text:?}"), text.parse().ok())
    }
}
