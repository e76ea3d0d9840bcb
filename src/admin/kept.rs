//! An answer that is made once for all who ask at about the same time, however many they are.

use std::time::{Duration, Instant};

use crate::http::Response;

/// How old such an answer may be.
const KEPT: Duration = Duration::from_millis(100);

/// The last one that was made, and when.
#[derive(Default)]
pub struct Kept(Option<(Instant, Response)>);

impl Kept {
    pub fn get(&mut self, now: Instant, make: impl FnOnce() -> Response) -> Response {
        match &self.0 {
            Some((at, response)) if now.duration_since(*at) < KEPT => response.clone(),
            _ => self.0.insert((now, make().into_shared())).1.clone(),
        }
    }

    /// Something was changed, and whoever did that must see it.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Status;

    #[test]
    fn one_answer_is_for_all_of_a_moment() {
        let (mut kept, mut made) = (Kept::default(), 0);
        let start = Instant::now();
        let mut get = |kept: &mut Kept, ms: u64| {
            let response = kept.get(start + Duration::from_millis(ms), || {
                made += 1;
                Response::text(Status::OK, made.to_string())
            });
            (String::from_utf8(response.body().to_vec()).expect("text"), response.body().as_ptr())
        };
        let (first, again) = (get(&mut kept, 0), get(&mut kept, 99));
        assert_eq!((first.0.as_str(), &first), ("1", &again), "the same, and not a copy");
        assert_eq!(get(&mut kept, 100).0, "2");
        kept.forget();
        assert_eq!(get(&mut kept, 101).0, "3");
    }
}
