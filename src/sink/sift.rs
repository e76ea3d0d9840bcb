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

/// Who applies pieces.
pub trait Pieces {
    type Error;
    /// Applies some records, in order: all of them or none.
    fn attempt(&mut self, piece: &[usize]) -> Result<(), Refused<Self::Error>>;
    /// This record cannot be applied, with everything before it in place.
    fn bad(&mut self, record: BadRecord);
}

/// Applies `records` piece by piece. All at once have been refused already where `refused` says so: it begins with the halves.
pub fn sift<P: Pieces>(records: &[usize], refused: bool, pieces: &mut P) -> Result<(), P::Error> {
    // What is still to be tried, the next one last.
    let mut left = if refused { halves(records).into() } else { vec![records] };
    while let Some(piece) = left.pop() {
        if piece.is_empty() {
            continue;
        }
        let (at, reason) = match pieces.attempt(piece) {
            Ok(()) => continue,
            Err(Refused::Other(error)) => return Err(error),
            Err(Refused::Record(index, reason)) => (index.and_then(|i| piece.iter().position(|r| *r == i)), reason),
        };
        match (at, piece) {
            // Even one that is named is tried alone: without those behind it the same may not be true.
            (_, [index]) => pieces.bad(BadRecord { index: *index, reason }),
            (Some(at), _) => left.extend([&piece[at + 1..], &piece[at..=at], &piece[..at]]),
            (None, _) => left.extend(halves(piece)),
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

    /// A sink that refuses some records.
    #[derive(Default)]
    struct Sink<F> {
        refuse: F,
        applied: Vec<usize>,
        bad: Vec<usize>,
        tries: usize,
    }

    impl<F: Fn(&[usize]) -> Option<Refused<&'static str>>> Pieces for Sink<F> {
        type Error = &'static str;

        fn attempt(&mut self, piece: &[usize]) -> Result<(), Refused<&'static str>> {
            self.tries += 1;
            match (self.refuse)(piece) {
                Some(refused) => Err(refused),
                None => {
                    self.applied.extend_from_slice(piece);
                    Ok(())
                }
            }
        }

        fn bad(&mut self, record: BadRecord) {
            self.bad.push(record.index);
        }
    }

    fn no(index: Option<usize>) -> Option<Refused<&'static str>> {
        Some(Refused::Record(index, Reason::new("no")))
    }

    fn run<F: Fn(&[usize]) -> Option<Refused<&'static str>>>(
        records: &[usize],
        refused: bool,
        refuse: F,
    ) -> (Result<(), &'static str>, Sink<F>) {
        let mut sink = Sink { refuse, applied: Vec::new(), bad: Vec::new(), tries: 0 };
        (sift(records, refused, &mut sink), sink)
    }

    /// Which of these a piece is refused for, named or not.
    fn refuses(bad: &[usize], names: bool) -> impl Fn(&[usize]) -> Option<Refused<&'static str>> {
        move |piece| piece.iter().find(|r| bad.contains(r)).and_then(|index| no(names.then_some(*index)))
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
            let (_, sink) = run(&records, begin_with_halves, refuses(&bad, names));
            prop_assert_eq!(&sink.applied, &good);
            prop_assert_eq!(&sink.bad, &bad);
        }
    }

    #[test]
    fn one_among_many_takes_twice_the_logarithm() {
        let records: Vec<usize> = (0..512).collect();
        let tries = |names, refused| run(&records, refused, refuses(&[300], names)).1.tries;
        assert!(tries(false, false) <= 2 * 9 + 1);
        assert!(tries(false, true) <= 2 * 9);
        assert!(tries(true, false) <= 4);
    }

    #[test]
    fn a_record_that_is_refused_only_beside_another_is_not_bad() {
        let both = |piece: &[usize]| (piece.contains(&1) && piece.contains(&2)).then(|| no(Some(2))).flatten();
        let (result, sink) = run(&[0, 1, 2, 3], false, both);
        assert_eq!((result, sink.bad), (Ok(()), vec![]));
    }

    #[test]
    fn what_is_not_about_a_record_ends_it() {
        let refuse = |piece: &[usize]| if piece.len() > 1 { no(None) } else { Some(Refused::Other("gone")) };
        let (result, sink) = run(&[0, 1, 2, 3], false, refuse);
        assert_eq!((result, sink.bad.len(), sink.tries), (Err("gone"), 0, 3));
    }
}
