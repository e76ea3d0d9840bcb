//! Where fences lie. PostgreSQL keeps every version of a row that some open transaction may still want to see; while one stays open
//! for long, a fence, which moves with each batch, is found by its key only behind thousands of its own earlier versions. By its
//! place it is found at once. A place is a guess: whoever has moved the fence since has moved it elsewhere, and then it is asked for
//! by its key again. No place is believed without the fence's key, token and offset.

use std::collections::HashMap;
use std::error::Error;

use parking_lot::Mutex;
use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

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

/// Where the fences of one shard lay when a worker moved them last, shared by its workers: lanes go from one to another.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<(i32, i32, Lane), Place>>);

impl Places {
    /// Those of all these moves, in their order; nothing where one is not known.
    pub fn of(&self, source: i32, moves: &[LaneMove], into: &mut Vec<Place>) {
        let places = self.0.lock();
        into.clear();
        for each in moves {
            match places.get(&(source, each.partition, each.lane)) {
                Some(place) => into.push(*place),
                None => return into.clear(),
            }
        }
    }

    /// They were moved there.
    pub fn moved(&self, source: i32, moves: &[LaneMove], to: &[Place]) {
        let mut places = self.0.lock();
        for (each, place) in moves.iter().zip(to) {
            places.insert((source, each.partition, each.lane), *place);
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

    #[test]
    fn all_of_them_or_none() {
        let lane = |lane| LaneMove {
            partition: 3,
            lane,
            generation: Generation(1),
            token: Token(1),
            expected: NextOffset(0),
            next: NextOffset(1),
        };
        let (places, mut found) = (Places::default(), Vec::new());
        let place = |offset| Place { block: 0, offset };
        places.moved(1, &[lane(0), lane(2)], &[place(5), place(7)]);
        places.of(1, &[lane(0), lane(2)], &mut found);
        assert_eq!(found, [place(5), place(7)]);
        places.of(1, &[lane(0), lane(1)], &mut found);
        assert_eq!(found, []);
        places.of(2, &[lane(0)], &mut found);
        assert_eq!(found, [], "another topic's");
    }
}
