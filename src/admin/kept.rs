//! What is made once for all who ask at about the same time, however many they are.

use std::time::{Duration, Instant};

/// How old it may be.
const KEPT: Duration = Duration::from_millis(100);

/// The last one that was made, and when.
pub struct Kept<T>(Option<(Instant, T)>);

impl<T> Default for Kept<T> {
    fn default() -> Kept<T> {
        Kept(None)
    }
}

impl<T> Kept<T> {
    pub fn get(&mut self, now: Instant, make: impl FnOnce() -> T) -> &mut T {
        let kept = self.0.take().filter(|(at, _)| now.saturating_duration_since(*at) < KEPT);
        &mut self.0.insert(kept.unwrap_or_else(|| (now, make()))).1
    }

    /// Something was changed, and whoever did that must see it.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_for_all_of_a_moment() {
        let (mut kept, mut made) = (Kept::default(), 0);
        let start = Instant::now();
        let mut get = |kept: &mut Kept<u32>, ms: u64| {
            *kept.get(start + Duration::from_millis(ms), || {
                made += 1;
                made
            })
        };
        assert_eq!([get(&mut kept, 0), get(&mut kept, 99), get(&mut kept, 100)], [1, 1, 2]);
        kept.forget();
        assert_eq!([get(&mut kept, 101), get(&mut kept, 102)], [3, 3]);
    }
}
