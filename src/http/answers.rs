//! Answers that wait for their turn: they go out in the order of the requests, whenever they are given.

use std::collections::VecDeque;
use std::time::Instant;

use super::response::{Response, Status};

/// The answers of one connection, one for each request that was read and not yet answered.
#[derive(Debug, Default)]
pub struct Answers {
    slots: VecDeque<Slot>,
    /// The number of the request at the front. Numbers rise by one and are never used twice.
    first: u64,
    /// Of the answers that are there and wait for others.
    held_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    answer: Answer,
    asked: Asked,
}

#[derive(Debug)]
enum Answer {
    DueBy(Instant),
    Given(Response),
}

/// What of a request its answer depends on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    pub head_only: bool,
    /// Whether an answer after which the connection goes on must say so.
    pub say_keep_alive: bool,
}

impl Answers {
    /// A place for the answer to the next request: its number.
    pub fn open(&mut self, asked: Asked, due_by: Instant) -> u64 {
        self.slots.push_back(Slot { answer: Answer::DueBy(due_by), asked });
        self.first + self.slots.len() as u64 - 1
    }

    /// Whether it was still waited for.
    pub fn give(&mut self, number: u64, response: Response) -> bool {
        let Some(index) = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else {
            return false;
        };
        match self.slots.get_mut(index) {
            Some(Slot { answer: answer @ Answer::DueBy(_), .. }) => {
                self.held_bytes += response.size();
                *answer = Answer::Given(response);
                true
            }
            _ => false,
        }
    }

    /// The answer whose turn it is.
    pub fn pop(&mut self) -> Option<(Response, Asked)> {
        if !matches!(self.slots.front()?.answer, Answer::Given(_)) {
            return None;
        }
        let Slot { answer: Answer::Given(response), asked } = self.slots.pop_front()? else {
            return None;
        };
        self.first += 1;
        self.held_bytes -= response.size();
        Some((response, asked))
    }

    /// Gives the answers that did not come in time, and says how many.
    pub fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        for slot in &mut self.slots {
            match slot.answer {
                Answer::DueBy(due_by) if due_by <= now => {
                    let response = Response::text(
                        Status::GATEWAY_TIMEOUT,
                        "found no answer in time; what was asked for may or may not have been done\n",
                    );
                    self.held_bytes += response.size();
                    slot.answer = Answer::Given(response);
                    expired += 1;
                }
                // Those behind were asked for later.
                Answer::DueBy(_) => break,
                Answer::Given(_) => {}
            }
        }
        expired
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Gives memory back that only a burst needed.
    pub fn shrink(&mut self) {
        if self.slots.is_empty() && self.slots.capacity() > 8 {
            self.slots.shrink_to(8);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn in_the_order_of_the_requests() {
        let mut answers = Answers::default();
        let now = Instant::now();
        let numbers: Vec<u64> = (0..4).map(|_| answers.open(Asked::default(), now)).collect();
        assert!(answers.give(numbers[2], Response::new(Status(202))));
        assert!(answers.give(numbers[1], Response::new(Status(201))));
        assert!(answers.pop().is_none());
        assert!(answers.held_bytes() > 0);
        assert!(answers.give(numbers[0], Response::new(Status(200))));
        assert!(!answers.give(numbers[0], Response::new(Status(500))), "one answer each");
        let statuses: Vec<u16> =
            std::iter::from_fn(|| answers.pop()).map(|(response, _)| response.status().0).collect();
        assert_eq!(statuses, [200, 201, 202]);
        assert!(!answers.give(numbers[0], Response::new(Status(500))), "it is gone");
        assert!(!answers.give(u64::MAX, Response::new(Status(500))), "nobody asked");
        assert_eq!((answers.held_bytes(), answers.len()), (0, 1));
    }

    #[test]
    fn an_answer_that_never_comes_is_given() {
        let mut answers = Answers::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let first = answers.open(Asked::default(), at(1));
        let second = answers.open(Asked::default(), at(1));
        answers.open(Asked::default(), at(2));
        assert!(answers.give(second, Response::new(Status::OK)));
        assert_eq!(answers.expire(now), 0);
        assert_eq!(answers.expire(at(1)), 1);
        assert!(!answers.give(first, Response::new(Status::OK)), "too late");
        let statuses: Vec<u16> =
            std::iter::from_fn(|| answers.pop()).map(|(response, _)| response.status().0).collect();
        assert_eq!(statuses, [504, 200]);
    }
}
