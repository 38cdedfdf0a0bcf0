//! Reading what tcpdump writes: pcap with Ethernet frames. What cannot be read is passed over.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::Packet;

/// TCP's SYN flag.
pub(super) const SYN: u8 = 0x02;
/// TCP's ACK flag.
pub(super) const ACK: u8 = 0x10;
/// tcpdump writes numbers in the machine's own order, and this one first.
const MAGIC: u32 = 0xa1b2_c3d4;
const FILE_HEADER: usize = 24;
const ETHERNET: usize = 14;

/// Calls `seen` for every IP packet until the stream ends.
pub(super) fn read(mut from: impl Read, mut seen: impl FnMut(Packet)) {
    let mut header = [0; FILE_HEADER];
    if from.read_exact(&mut header).is_err() || word(&header, 0) != Some(MAGIC) {
        return;
    }
    let mut record = [0; 16];
    while from.read_exact(&mut record).is_ok() {
        let number = |at| word(&record, at).unwrap_or_default();
        let mut frame = vec![0; number(8) as usize];
        if from.read_exact(&mut frame).is_err() {
            return;
        }
        let time = Duration::new(number(0).into(), number(4) * 1000);
        if let Some(packet) = packet(&frame, time) {
            seen(packet);
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn packet(frame: &[u8], time: Duration) -> Option<Packet> {
    let ip = frame.get(ETHERNET..)?;
    match be16(frame, 12)? {
        0x0800 => {
            let header = usize::from(*ip.first()? & 0x0f) * 4;
            let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?)));
            let total = usize::from(be16(ip, 2)?);
            // A frame that segmentation offload makes too long for the field says 0.
            let length = if total == 0 { ip.len() } else { total }.checked_sub(header)?;
            transport(*ip.get(9)?, ip.get(header..)?, length, [address(12)?, address(16)?], time)
        }
        0x86dd => {
            let address =
                |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?)));
            let total = usize::from(be16(ip, 4)?);
            let length = if total == 0 { ip.len().checked_sub(40)? } else { total };
            transport(*ip.get(6)?, ip.get(40..)?, length, [address(8)?, address(24)?], time)
        }
        _ => None,
    }
}

/// `segment` is what was captured of the IP payload, which had `length` bytes.
fn transport(protocol: u8, segment: &[u8], length: usize, ends: [IpAddr; 2], time: Duration) -> Option<Packet> {
    let [source, destination] = ends;
    let has_ports = matches!(protocol, 6 | 17);
    let port = |at| if has_ports { be16(segment, at) } else { Some(0) };
    let header = match protocol {
        6 => usize::from(*segment.get(12)? >> 4) * 4,
        17 => 8,
        _ => 0,
    };
    Some(Packet {
        time,
        source: SocketAddr::new(source, port(0)?),
        destination: SocketAddr::new(destination, port(2)?),
        protocol,
        flags: if protocol == 6 { *segment.get(13)? } else { 0 },
        length: length.checked_sub(header)?,
        payload: segment.get(header..).unwrap_or_default().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, read};

    #[test]
    fn a_frame_of_each_family() {
        let mut file = MAGIC.to_ne_bytes().to_vec();
        file.resize(24, 0);
        let mut v4 = vec![0; 12];
        v4.extend([0x08, 0x00, 0x45, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 10, 40, 1, 10, 10, 40, 2, 10]);
        v4.extend([0x9c, 0x40, 0x3a, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0, 0x16, 3, 1, 0]);
        let mut v6 = vec![0; 12];
        v6.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 10, 17, 64]);
        v6.extend([0xfd, 0, 0, 0x40, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10].repeat(2));
        v6.extend([0, 53, 0, 99, 0, 10, 0, 0, b'h', b'i']);
        for frame in [v4, v6] {
            file.extend(7_u32.to_ne_bytes());
            file.extend(5_u32.to_ne_bytes());
            file.extend((frame.len() as u32).to_ne_bytes().repeat(2));
            file.extend(frame);
        }
        let mut packets = Vec::new();
        read(&file[..], |packet| packets.push(packet));
        let texts: Vec<String> = packets.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["10.40.1.10:40000 > 10.40.2.10:15008 4 bytes", "[fd00:40:1::10]:53 > [fd00:40:1::10]:99 2 bytes"]
        );
        assert!(packets[0].is_handshake() && packets[1].shows("hi"));
        assert_eq!(packets[0].time.as_secs(), 7);
    }
}
