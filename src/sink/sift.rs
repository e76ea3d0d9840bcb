//! Which records of a batch are at fault: halves what fails until single records are left. A half is tried before what comes
//! behind it, so whatever succeeds happens in order, and a record is found bad with everything before it in place.
//!
//! It halves records, never the rows that some of them make together: a row that is refused says nothing about the earlier
//! records in it. (One that the records behind it overwrite within a piece is applied with them, as in any other batch.)

use crate::sink::{BadRecord, Reason};

/// Begins a piece. What the piece before it made immediate is deferred again, as far as it may be.
pub const BEGIN_PIECE: &str = "SAVEPOINT piece; SET CONSTRAINTS ALL DEFERRED";

/// Ends a piece that was applied: what is deferred to COMMIT would be at fault only there, with nobody to tell whose it is.
pub const END_PIECE: &str = "SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT piece";

/// Ends a piece that was refused.
pub const UNDO_PIECE: &str = "ROLLBACK TO SAVEPOINT piece; RELEASE SAVEPOINT piece";

/// Why some records could not be applied; nothing of them was.
#[derive(Debug)]
pub enum Refused<E> {
    /// One of them is at fault: which one (its index in the batch) where that is known.
    Record(Option<usize>, Reason),
    /// It is not about a record.
    Other(E),
}

/// Applies `records` by `attempt`, which takes some of them, in order, and applies all or none; adds those that cannot be
/// applied to `bad`. All at once have been refused already where `refused` says so: it begins with the halves.
pub fn sift<E>(
    records: &[usize],
    refused: bool,
    bad: &mut Vec<BadRecord>,
    mut attempt: impl FnMut(&[usize]) -> Result<(), Refused<E>>,
) -> Result<(), E> {
    // What is still to be tried, the next one last.
    let mut pieces = if refused { halves(records).into() } else { vec![records] };
    while let Some(piece) = pieces.pop() {
        if piece.is_empty() {
            continue;
        }
        let (at, reason) = match attempt(piece) {
            Ok(()) => continue,
            Err(Refused::Other(error)) => return Err(error),
            Err(Refused::Record(index, reason)) => (index.and_then(|i| piece.iter().position(|r| *r == i)), reason),
        };
        match (at, piece) {
            // Even one that is named is tried alone: without those behind it the same may not be true.
            (_, [index]) => bad.push(BadRecord { index: *index, reason }),
            (Some(at), _) => pieces.extend([&piece[at + 1..], &piece[at..=at], &piece[..at]]),
            (None, _) => pieces.extend(halves(piece)),
        }
    }
    Ok(())
}

/// The second half, then the first one.
fn halves(piece: &[usize]) -> [&[usize]; 2] {
    let (first, second) = piece.split_at(piece.len() / 2);
    [second, first]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tries `records` against a sink that refuses some; returns what was applied, the bad ones, and how many tries it took.
    fn run(records: &[usize], refuses: &[usize], names: bool, refused: bool) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut applied, mut bad, mut tries) = (Vec::new(), Vec::new(), 0);
        let result: Result<(), ()> = sift(records, refused, &mut bad, |piece| {
            tries += 1;
            match piece.iter().find(|r| refuses.contains(r)) {
                Some(index) => Err(Refused::Record(names.then_some(*index), Reason::new("no"))),
                None => {
                    applied.extend_from_slice(piece);
                    Ok(())
                }
            }
        });
        result.expect("nothing else fails");
        (applied, bad.into_iter().map(|b| b.index).collect(), tries)
    }

    proptest! {
        #[test]
        fn exactly_the_bad_ones_are_left_out_and_the_others_keep_their_order(
            from in 0..50usize,
            refused in proptest::collection::vec(any::<bool>(), 0..200),
            names: bool,
            begin_with_halves: bool,
        ) {
            let records: Vec<usize> = (from..from + refused.len()).collect();
            let (bad, good): (Vec<usize>, Vec<usize>) = records.iter().partition(|r| refused[**r - from]);
            let (applied, found, _) = run(&records, &bad, names, begin_with_halves);
            prop_assert_eq!(applied, good);
            prop_assert_eq!(found, bad);
        }
    }

    #[test]
    fn one_among_many_takes_twice_the_logarithm() {
        let records: Vec<usize> = (0..512).collect();
        assert!(run(&records, &[300], false, false).2 <= 2 * 9 + 1);
        assert!(run(&records, &[300], false, true).2 <= 2 * 9);
        assert!(run(&records, &[300], true, false).2 <= 4);
    }

    #[test]
    fn a_record_that_is_refused_only_beside_another_is_not_bad() {
        let mut bad = Vec::new();
        let both = |piece: &[usize]| match piece.contains(&1) && piece.contains(&2) {
            true => Err(Refused::<()>::Record(Some(2), Reason::new("not together"))),
            false => Ok(()),
        };
        sift(&[0, 1, 2, 3], false, &mut bad, both).expect("nothing else fails");
        assert_eq!(bad, []);
    }

    #[test]
    fn what_is_not_about_a_record_ends_it() {
        let mut bad = Vec::new();
        let mut tries = 0;
        let result = sift(&[0, 1, 2, 3], false, &mut bad, |piece| {
            tries += 1;
            if piece.len() > 1 { Err(Refused::Record(None, Reason::new("no"))) } else { Err(Refused::Other("gone")) }
        });
        assert_eq!((result, bad.len(), tries), (Err("gone"), 0, 3));
    }
}
