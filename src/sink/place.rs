//! Where fences lie. PostgreSQL keeps every version of a row that some open transaction may still want to see; while one stays open
//! for long, a fence, which moves with each batch, is found by its key only behind thousands of its own earlier versions. By its
//! place it is found at once. A place is a guess: whoever has moved the fence since has moved it elsewhere, and then it is asked for
//! by its key again. No place is believed without the fence's key, token and offset.
//!
//! But only a look by the key makes PostgreSQL clear away the versions that nobody wants any more, and then the fence stays in its
//! page. So fences are found by their keys for as long as that works; places serve while it does not: when a fence found by its key
//! had to leave its page all the same.

use std::collections::HashMap;
use std::error::Error;

use parking_lot::Mutex;
use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::sink::fence::Found;
use crate::state::batch::LaneMove;
use crate::types::Lane;

/// Where a version of a row lies: PostgreSQL's `tid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    block: u32,
    offset: u16,
}

impl ToSql for Place {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&self.block.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TID);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Place {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Place, Box<dyn Error + Sync + Send>> {
        let [a, b, c, d, e, f] = raw else { return Err(format!("a tid of {} bytes", raw.len()).into()) };
        Ok(Place { block: u32::from_be_bytes([*a, *b, *c, *d]), offset: u16::from_be_bytes([*e, *f]) })
    }

    accepts!(TID);
}

/// How many moves by place follow at least, and at most, one by key after which the fence was in another page; each time that happens
/// again they are twice as many.
const STRETCH_MIN: u16 = 512;
const STRETCH_MAX: u16 = 4096;
/// So many moves by key within their page say that keys serve again: as long as old versions stay, a page is full after fewer.
const STAYS: u16 = 128;

/// Where the fences of one shard lay when a worker moved them last, shared by its workers: lanes go from one to another.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<(i32, i32), Fences>>);

/// Those of one partition.
#[derive(Debug, Default)]
struct Fences {
    places: HashMap<Lane, Place>,
    /// Moves by place that are left.
    left: u16,
    /// How many there were last.
    stretch: u16,
    /// Moves by key since, within their page.
    stayed: u16,
}

impl Places {
    /// Those of all these moves, in their order; nothing where they are better found by their keys.
    pub fn of(&self, source: i32, moves: &[LaneMove], into: &mut Vec<Place>) {
        let partitions = self.0.lock();
        into.clear();
        for each in moves {
            let fences = partitions.get(&(source, each.partition)).filter(|fences| fences.left > 0);
            match fences.and_then(|fences| fences.places.get(&each.lane)) {
                Some(place) => into.push(*place),
                None => return into.clear(),
            }
        }
    }

    /// They were moved there, and found like this.
    pub fn moved(&self, source: i32, moves: &[LaneMove], found: Found, to: &[Place]) {
        let mut partitions = self.0.lock();
        let mut to = to.iter();
        for of_one in moves.chunk_by(|a, b| a.partition == b.partition) {
            let fences = partitions.entry((source, of_one[0].partition)).or_default();
            let mut left_page = false;
            for (each, place) in of_one.iter().zip(to.by_ref()) {
                let before = fences.places.insert(each.lane, *place);
                left_page |= before.is_some_and(|before| before.block != place.block);
            }
            match found {
                Found::ByPlace => fences.left = fences.left.saturating_sub(1),
                Found::ByKey if left_page => {
                    fences.stretch = fences.stretch.saturating_mul(2).clamp(STRETCH_MIN, STRETCH_MAX);
                    (fences.left, fences.stayed) = (fences.stretch, 0);
                }
                Found::ByKey => {
                    fences.stayed = fences.stayed.saturating_add(1);
                    if fences.stayed >= STAYS {
                        fences.stretch = 0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Generation, NextOffset, Token};

    #[test]
    fn a_place_travels_as_postgresql_sends_it() {
        let mut out = BytesMut::new();
        Place { block: 70_000, offset: 12 }.to_sql(&Type::TID, &mut out).expect("six bytes");
        assert_eq!(&out[..], [0, 1, 17, 112, 0, 12]);
        assert_eq!(Place::from_sql(&Type::TID, &out).ok(), Some(Place { block: 70_000, offset: 12 }));
        assert!(Place::from_sql(&Type::TID, &out[1..]).is_err());
    }

    fn lane(partition: i32, lane: Lane) -> LaneMove {
        let (generation, token) = (Generation(1), Token(1));
        LaneMove { partition, lane, generation, token, expected: NextOffset(0), next: NextOffset(1) }
    }

    fn place(block: u32) -> Place {
        Place { block, offset: 1 }
    }

    fn found(places: &Places, moves: &[LaneMove]) -> usize {
        let mut found = Vec::new();
        places.of(1, moves, &mut found);
        found.len()
    }

    #[test]
    fn places_serve_while_keys_do_not() {
        let (places, moves) = (Places::default(), [lane(3, 0), lane(3, 2)]);
        let by_key = |block| places.moved(1, &moves, Found::ByKey, &[place(block), place(block)]);
        by_key(1);
        by_key(1);
        assert_eq!(found(&places, &moves), 0, "it stays in its page");
        for (round, stretch) in [512, 1024, 2048, 4096, 4096].into_iter().enumerate() {
            // Not each move by key fills a page.
            by_key(1);
            by_key(2 + round as u32);
            for n in 0..stretch {
                assert_eq!(found(&places, &moves), 2, "{n} of {stretch}");
                places.moved(1, &moves, Found::ByPlace, &[place(1), place(1)]);
            }
            assert_eq!(found(&places, &moves), 0, "after {stretch}");
        }
        (0..STAYS).for_each(|_| by_key(1));
        assert_eq!(found(&places, &moves), 0, "the keys serve again");
        by_key(2);
        assert_eq!(places.0.lock()[&(1, 3)].left, STRETCH_MIN, "as at first");
        assert_eq!(found(&places, &moves[..1]), 1);
        assert_eq!(found(&places, &[lane(3, 0), lane(3, 1)]), 0, "one is not known");
        assert_eq!(found(&places, &[lane(3, 0), lane(4, 0)]), 0, "nor another partition's");
    }
}
