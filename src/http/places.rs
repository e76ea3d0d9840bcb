//! How many connections there may be, and who is let in. Each door keeps some places to itself, so that a crowd at one of them does not
//! shut the others.

/// Connections beyond the limit that are told so at a time. Those beyond these are closed without a word.
pub const SURPLUS_MAX: usize = 64;
/// One in so many places is kept, in equal parts for all doors.
const KEPT_OF: usize = 4;

/// The places that are taken.
#[derive(Debug)]
pub struct Places {
    max: usize,
    /// As many are for a door alone.
    kept: usize,
    /// By door.
    taken: Vec<usize>,
    surplus: usize,
}

/// What somebody who comes gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Served,
    /// To be told that it is one too many.
    Surplus,
    None,
}

impl Places {
    pub fn new(max: usize, doors: usize) -> Places {
        let kept = if doors > 1 { max / KEPT_OF / doors } else { 0 };
        Places { max, kept, taken: vec![0; doors], surplus: 0 }
    }

    /// Whether all places that this door may have are taken.
    pub fn is_full(&self, door: usize) -> bool {
        let kept = |(other, taken): (usize, &usize)| match other == door {
            true => *taken,
            false => (*taken).max(self.kept),
        };
        self.taken.iter().enumerate().map(kept).sum::<usize>() >= self.max
    }

    /// Whether one who came in by the door `other` leaves a place for one at `door`.
    pub fn is_in_the_way(&self, other: usize, door: usize) -> bool {
        other == door || self.taken[other] > self.kept
    }

    /// Lets somebody in by this door.
    pub fn take(&mut self, door: usize) -> Place {
        if !self.is_full(door) {
            self.taken[door] += 1;
            Place::Served
        } else if self.surplus < SURPLUS_MAX {
            self.surplus += 1;
            Place::Surplus
        } else {
            Place::None
        }
    }

    /// Somebody whom this door let in has gone.
    pub fn give_back(&mut self, door: usize, surplus: bool) {
        let place = if surplus { &mut self.surplus } else { &mut self.taken[door] };
        *place -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(places: &mut Places, door: usize) -> usize {
        std::iter::from_fn(|| (places.take(door) == Place::Served).then_some(())).count()
    }

    #[test]
    fn one_door_has_all() {
        let mut places = Places::new(5, 1);
        assert_eq!(crowd(&mut places, 0), 5);
        assert_eq!(std::iter::from_fn(|| (places.take(0) == Place::Surplus).then_some(())).count(), SURPLUS_MAX - 1);
        assert_eq!(places.take(0), Place::None);
        places.give_back(0, true);
        assert_eq!(places.take(0), Place::Surplus);
        places.give_back(0, false);
        assert_eq!(places.take(0), Place::Served);
    }

    #[test]
    fn a_crowd_at_one_door_leaves_the_others_some() {
        let mut places = Places::new(128, 2);
        assert_eq!(crowd(&mut places, 0), 112);
        assert!(!places.is_full(1) && !places.is_in_the_way(1, 0) && places.is_in_the_way(0, 1));
        assert_eq!(crowd(&mut places, 1), 16);
        // What is free is anybody's, but for what others lack of theirs.
        (0..20).for_each(|_| places.give_back(0, false));
        assert_eq!(crowd(&mut places, 1), 20);
        assert!(places.is_in_the_way(1, 0));
        (0..36).for_each(|_| places.give_back(1, false));
        assert_eq!(crowd(&mut places, 0), 20);
    }

    #[test]
    fn too_few_to_keep_any() {
        let mut places = Places::new(2, 2);
        assert_eq!(places.take(0), Place::Served);
        assert_eq!(places.take(1), Place::Served);
        assert!(places.is_full(0) && places.is_full(1));
    }
}
