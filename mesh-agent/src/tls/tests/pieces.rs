//! How data in pieces becomes records.

use std::io::IoSlice;

use proptest::prelude::*;

use crate::tls::keys::MOST;
use crate::tls::writing::{Piece, Pieces};

/// The records' lengths, which of them are copied, and their bytes.
fn records(pieces: &[Vec<u8>]) -> (Vec<(usize, bool)>, Vec<u8>) {
    let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut data = Pieces::of(&slices);
    let (mut lengths, mut bytes) = (Vec::new(), Vec::new());
    while data.left > 0 {
        match data.next(MOST) {
            Piece::Whole(piece) => {
                bytes.extend_from_slice(piece);
                lengths.push((piece.len(), false));
            }
            Piece::Several(count) => {
                let at = bytes.len();
                bytes.resize(at + count, 0);
                data.copy(&mut bytes[at..]);
                lengths.push((count, true));
            }
        }
    }
    assert_eq!(data.taken, bytes.len());
    (lengths, bytes)
}

#[test]
fn large_pieces_are_not_copied() {
    for (sizes, expected) in [
        (vec![64], vec![(64, false)]),
        (vec![9, 64], vec![(73, true)]),
        (vec![9, 4 * MOST], vec![(9, true), (MOST, false), (MOST, false), (MOST, false), (MOST, false)]),
        (vec![9, 2 * MOST + 100], vec![(109, true), (MOST, false), (MOST, false)]),
        (vec![9, MOST - 1, 9, 10], vec![(9 + MOST - 1 - 8, true), (27, true)]),
        (vec![2 * MOST], vec![(MOST, false), (MOST, false)]),
        (vec![0, 5, 0], vec![(5, false)]),
        (vec![], vec![]),
    ] {
        let pieces: Vec<_> = sizes.iter().map(|size| vec![1; *size]).collect();
        assert_eq!(records(&pieces).0, expected, "{sizes:?}");
    }
}

proptest! {
    #[test]
    fn nothing_is_lost(sizes in prop::collection::vec(0_usize..60_000, 0..6)) {
        let pieces: Vec<_> = sizes.iter().enumerate().map(|(at, size)| vec![at as u8; *size]).collect();
        let (lengths, bytes) = records(&pieces);
        prop_assert_eq!(bytes, pieces.concat());
        prop_assert!(lengths.iter().all(|(length, _)| (1..=MOST).contains(length)));
    }
}
