//! What waits for a socket that takes nothing.

use bytes::{Buf, Bytes};

use super::{Down, GATHER, PIECES, SMALL};

/// Frames as they come, and how many buffers may hold them at most.
#[test]
fn small_frames_are_gathered_and_stay_in_order() {
    let large = vec![7; 100_000];
    let cases: [(&str, Vec<usize>, usize); 6] = [
        ("single bytes", vec![1; 200_000], 200_000 / GATHER + 3),
        ("nothing", vec![0; 1000], 0),
        ("just small", vec![SMALL - 1; 100], 100 * SMALL / (GATHER - SMALL) + 2),
        ("just large", vec![SMALL; 100], 100),
        ("large and small", [SMALL, 1, 1].repeat(100), 200),
        ("one large", vec![large.len()], 1),
    ];
    for (case, sizes, most) in cases {
        let (mut down, mut sent, mut next) = (Down::new(), Vec::new(), 0u8);
        for size in sizes {
            let frame: Vec<u8> = (0..size)
                .map(|_| {
                    next = next.wrapping_mul(5).wrapping_add(3);
                    next
                })
                .collect();
            sent.extend_from_slice(&frame);
            down.push(Bytes::from(frame));
        }
        down.seal();
        assert_eq!(down.bytes, sent.len(), "{case}");
        assert!(down.waiting.len() <= most, "{case}: {} buffers, {most} at most", down.waiting.len());
        let mut written = Vec::new();
        // A socket that takes odd pieces.
        for step in (1..).map(|turn| turn * 977 % 30_011 + 1) {
            let piece = step.min(down.bytes);
            let mut left = piece;
            for waiting in &down.waiting {
                let part = left.min(waiting.remaining());
                written.extend_from_slice(&waiting[..part]);
                left -= part;
            }
            down.consume(piece);
            if down.bytes == 0 {
                break;
            }
        }
        assert!(written == sent, "{case}: order or bytes lost");
        assert!(down.waiting.is_empty(), "{case}: empty buffers stay");
    }
}

#[test]
fn a_quiet_direction_holds_no_buffer() {
    let mut down = Down::new();
    (0..1000).for_each(|_| down.push(Bytes::from(vec![1; SMALL - 1])));
    down.seal();
    down.consume(down.bytes);
    assert!(down.gathered.capacity() > 0 && down.waiting.capacity() > PIECES, "nothing was gathered");
    down.fall_quiet();
    assert_eq!(down.gathered.capacity(), 0);
    assert!(down.waiting.capacity() <= PIECES);
}
