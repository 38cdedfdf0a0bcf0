//! Who serves one port of a service: a weighted draw in constant time (Vose's alias method), prepared when the
//! configuration arrives.
//!
//! Where the choice depends on where the client is, there is one table for each place that the node's own workloads are at;
//! that is nearly always one.

use std::sync::Arc;

use super::balance::{HealthPolicy, Vantage};
use super::service::{Ports, Service};
use super::workload::{Health, Workload};

/// The endpoints of one service.
#[derive(Clone, Debug)]
pub struct Endpoints {
    service: Arc<Service>,
    /// Those that may be used as far as health goes, by uid.
    members: Box<[Arc<Workload>]>,
    /// By service port.
    ports: Box<[(u16, Choice)]>,
    /// Endpoints that take any port, since an application tunnel says where it leads.
    tunnelled: Choice,
}

/// The tables of one port.
#[derive(Clone, Debug)]
enum Choice {
    Everywhere(Table),
    /// What each client place gets.
    From(Vec<(Vantage, Table)>),
}

/// A column for each endpoint.
#[derive(Clone, Debug, Default)]
struct Table(Box<[Column]>);

#[derive(Clone, Copy, Debug)]
struct Column {
    member: u32,
    /// Of 2^32: how much of the column is its own; the rest belongs to `alias`, a column.
    own: u32,
    alias: u32,
    port: u16,
}

/// One column of a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// A number that [`Endpoints::pick`] gives the column's own endpoint for, if any part is its own.
    pub draw: u64,
    /// Of 2^32: how much of the column is its own; the rest belongs to the column `alias`.
    pub own: u32,
    pub alias: u32,
}

/// Why a service gives no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEndpoint {
    NoSuchPort,
    NoneUsable,
}

/// Which ports may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A client's connection: the service must have the port.
    Client,
    /// A tunnel to a gateway: endpoints with an application tunnel take any port.
    Gateway,
}

impl Default for Choice {
    fn default() -> Self {
        Self::Everywhere(Table::default())
    }
}

impl Endpoints {
    /// Prepares the choice among `members` for clients at `vantages`; clients elsewhere are served by [`Endpoints::pick`]
    /// as well, at the price of a walk.
    pub fn of(service: &Arc<Service>, mut members: Vec<Arc<Workload>>, vantages: &[Vantage]) -> Self {
        members.retain(|workload| ready(service, workload));
        // The same draw gives the same endpoint whatever the order of the maps.
        members.sort_by(|a, b| a.uid.cmp(&b.uid));
        let members: Box<[_]> = members.into();
        let scattered = service.load_balancing.depends_on_client() || !members.iter().all(|one| one.has_address());
        let choice = |port: &dyn Fn(&Workload) -> Option<u16>| match scattered {
            false => Choice::Everywhere(table(&members, port, &|_| Some(0))),
            true => {
                let at = |from: &Vantage| (from.clone(), table(&members, port, &|one| fitness(service, from, one)));
                Choice::From(vantages.iter().map(at).collect())
            }
        };
        let ports = service.ports.iter().map(|port| (port.service, choice(&|one| target(service, port.service, one))));
        let ports = ports.collect();
        let tunnelled = choice(&any_port);
        Self { service: Arc::clone(service), ports, tunnelled, members }
    }

    /// One of those that serve `port` for `source`, and its port there. `draw` is uniformly random.
    pub fn pick(
        &self,
        port: u16,
        purpose: Purpose,
        source: &Workload,
        draw: u64,
    ) -> Result<(&Arc<Workload>, u16), NoEndpoint> {
        let listed = self.ports.binary_search_by_key(&port, |(port, _)| *port).ok();
        let column = match (listed, purpose) {
            (Some(at), _) => self.draw(&self.ports[at].1, &|one| target(&self.service, port, one), source, draw),
            (None, Purpose::Gateway) => {
                let column = self.draw(&self.tunnelled, &any_port, source, draw);
                column.map(|column| Column { port, ..column })
            }
            (None, Purpose::Client) => return Err(NoEndpoint::NoSuchPort),
        };
        let column = column.ok_or(NoEndpoint::NoneUsable)?;
        Ok((&self.members[column.member as usize], column.port))
    }

    /// How the draw for `source` and a client's `port` is made up, a share for each column of the table.
    pub fn shares(&self, port: u16, source: &Workload) -> Vec<Share> {
        let Ok(at) = self.ports.binary_search_by_key(&port, |(port, _)| *port) else { return Vec::new() };
        match &self.ports[at].1 {
            Choice::Everywhere(table) => table.shares(),
            Choice::From(tables) => match tables.iter().find(|(vantage, _)| vantage.is_of(source)) {
                Some((_, table)) => table.shares(),
                None => {
                    let from = Vantage::of(source);
                    let rank = |one: &Workload| fitness(&self.service, &from, one);
                    table(&self.members, &|one| target(&self.service, port, one), &rank).shares()
                }
            },
        }
    }

    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// All that may be used as far as health goes.
    pub fn members(&self) -> &[Arc<Workload>] {
        &self.members
    }

    fn draw(
        &self,
        choice: &Choice,
        port: &dyn Fn(&Workload) -> Option<u16>,
        source: &Workload,
        draw: u64,
    ) -> Option<Column> {
        match choice {
            Choice::Everywhere(table) => table.pick(draw),
            Choice::From(tables) => match tables.iter().find(|(vantage, _)| vantage.is_of(source)) {
                Some((_, table)) => table.pick(draw),
                None => {
                    let from = Vantage::of(source);
                    table(&self.members, port, &|one| fitness(&self.service, &from, one)).pick(draw)
                }
            },
        }
    }
}

fn ready(service: &Service, workload: &Workload) -> bool {
    let usable = service.load_balancing.health == HealthPolicy::AllowAll || workload.health == Health::Healthy;
    usable && (workload.has_address() || workload.network_gateway.is_some())
}

/// The port of `workload` behind the service's `port` (protocol note, section 7.4).
fn target(service: &Service, port: u16, workload: &Workload) -> Option<u16> {
    let own = workload.services.get(&service.key).and_then(|ports: &Ports| ports.get(port));
    let stated = own.or_else(|| service.ports.get(port)).filter(|target| *target != 0);
    stated.or_else(|| workload.tunnel_port().map(|_| port))
}

/// Whether it takes any port; which one is the caller's business.
fn any_port(workload: &Workload) -> Option<u16> {
    workload.app_tunnel.map(|_| 0)
}

/// How good it is for a client there. Without an address it can only be reached through its network's gateway, from
/// another network.
fn fitness(service: &Service, from: &Vantage, workload: &Workload) -> Option<usize> {
    let reachable = workload.has_address() || workload.network != from.network;
    service.load_balancing.rank(from, workload).filter(|_| reachable)
}

/// The table of the best among those that have a port and a weight.
fn table(
    members: &[Arc<Workload>],
    port: &dyn Fn(&Workload) -> Option<u16>,
    rank: &dyn Fn(&Workload) -> Option<usize>,
) -> Table {
    let able =
        members.iter().zip(0u32..).filter_map(|(one, index)| Some((rank(one)?, index, port(one)?, one.capacity)));
    let mut able: Vec<_> = able.filter(|(.., capacity)| *capacity > 0).collect();
    let best = able.iter().map(|(rank, ..)| *rank).max();
    able.retain(|(rank, ..)| Some(*rank) == best);
    Table::new(&able.iter().map(|(_, member, port, capacity)| (*member, *port, *capacity)).collect::<Vec<_>>())
}

const WHOLE: u128 = 1 << 32;

impl Table {
    /// Each member with its port and its weight, above 0.
    fn new(members: &[(u32, u16, u32)]) -> Self {
        let total: u128 = members.iter().map(|(.., weight)| u128::from(*weight)).sum();
        let count = members.len() as u128;
        // Scaled so that the average column is WHOLE.
        let scale = |weight: u32| u128::from(weight) * count * WHOLE / total.max(1);
        let mut scaled: Vec<u128> = members.iter().map(|(.., weight)| scale(*weight)).collect();
        let column = |(index, (member, port, _)): (u32, &(u32, u16, u32))| Column {
            member: *member,
            port: *port,
            own: u32::MAX,
            alias: index,
        };
        let mut columns: Box<[Column]> = (0u32..).zip(members).map(column).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..columns.len()).partition(|index| scaled[*index] < WHOLE);
        while let (Some(little), Some(big)) = (small.pop(), large.pop()) {
            columns[little].own = u32::try_from(scaled[little]).unwrap_or(u32::MAX);
            columns[little].alias = u32::try_from(big).unwrap_or_default();
            scaled[big] -= WHOLE - scaled[little];
            if scaled[big] < WHOLE { small.push(big) } else { large.push(big) }
        }
        Self(columns)
    }

    fn shares(&self) -> Vec<Share> {
        let count = self.0.len() as u64;
        // The least upper half that chooses the column.
        let draw = |index: u64| (index << 32).div_ceil(count) << 32;
        let share = |(index, column): (u64, &Column)| Share { draw: draw(index), own: column.own, alias: column.alias };
        (0..).zip(&self.0).map(share).collect()
    }

    /// One of them, by a uniformly random number: the upper half chooses the column, the lower between it and its alias.
    fn pick(&self, draw: u64) -> Option<Column> {
        let count = self.0.len() as u64;
        let index = ((draw >> 32) * count) >> 32;
        let column = self.0.get(usize::try_from(index).ok()?)?;
        let own = u64::from(column.own) > draw & u64::from(u32::MAX);
        if own { Some(*column) } else { self.0.get(column.alias as usize).copied() }
    }
}

#[cfg(test)]
mod tests;
