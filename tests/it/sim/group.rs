//! The fake group coordinator: members, eager and cooperative rebalances whose answers may be pending, session expiry, and
//! committed offsets with metadata whose answers may be late, lost or refusals.
//!
//! What a member *is told* and what the coordinator *believes* differ for as long as events wait for the member's next
//! poll: that is where zombies live.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use forebay::source::{Commit, SourceEvent};
use forebay::types::TopicPartition;

pub type MemberId = u32;

pub struct Group {
    pub eager: bool,
    pub session_timeout: Duration,
    pub committed: BTreeMap<TopicPartition, (i64, String)>,
    members: BTreeMap<MemberId, Member>,
    requests: VecDeque<Request>,
    /// How often each partition was given to somebody.
    given: BTreeMap<TopicPartition, u64>,
    /// Eager only: everybody gives everything back first.
    gathering: bool,
    /// Which member gets which partition; a new number moves them.
    shuffle: usize,
}

#[derive(Default)]
struct Member {
    last_seen: Duration,
    /// The coordinator's belief.
    owned: BTreeSet<TopicPartition>,
    /// Not handed out yet.
    told: VecDeque<SourceEvent>,
    /// Told or asked to give these back; since when.
    revoking: BTreeMap<TopicPartition, Duration>,
    /// Answers to commits.
    answers: VecDeque<Result<(), String>>,
    /// Its session ended; it learns that at its next poll.
    expelled: bool,
    leaving: bool,
}

/// A commit on its way.
struct Request {
    member: MemberId,
    offsets: Vec<Commit>,
    /// What [`Group::given`] was for each of them: a coordinator refuses a commit of an earlier generation.
    given: Vec<u64>,
    due: Duration,
    fate: CommitFate,
}

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFate {
    Answered,
    /// Accepted if it may be, but the client sees a time-out.
    AnswerLost,
    /// Never arrives; the client sees a time-out.
    Lost,
}

/// A commit that the coordinator has accepted.
pub struct Accepted {
    pub member: MemberId,
    pub at: TopicPartition,
    pub next: i64,
}

impl Group {
    pub fn new(eager: bool, session_timeout: Duration) -> Group {
        Group {
            eager,
            session_timeout,
            committed: BTreeMap::new(),
            members: BTreeMap::new(),
            requests: VecDeque::new(),
            given: BTreeMap::new(),
            gathering: false,
            shuffle: 0,
        }
    }

    pub fn join(&mut self, member: MemberId, now: Duration) {
        let fresh = Member { last_seen: now, ..Member::default() };
        let answers = self.members.remove(&member).map(|old| old.answers).unwrap_or_default();
        self.members.insert(member, Member { answers, ..fresh });
    }

    /// The member is heard from.
    pub fn seen(&mut self, member: MemberId, now: Duration) {
        if let Some(m) = self.members.get_mut(&member) {
            m.last_seen = now;
        }
    }

    pub fn leave(&mut self, member: MemberId) {
        if let Some(m) = self.members.get_mut(&member) {
            m.leaving = true;
        }
    }

    /// Forgets a member at once, as when a static member's successor arrives.
    pub fn expel(&mut self, member: MemberId) {
        if let Some(m) = self.members.get_mut(&member) {
            m.expelled = true;
            m.owned.clear();
            m.told.clear();
            m.revoking.clear();
        }
    }

    pub fn is_expelled(&self, member: MemberId) -> bool {
        self.members.get(&member).is_none_or(|m| m.expelled)
    }

    /// Whether a member that was leaving has left.
    pub fn is_gone(&self, member: MemberId) -> bool {
        self.members.get(&member).is_none_or(|m| m.expelled || (m.leaving && m.owned.is_empty() && m.told.is_empty()))
    }

    pub fn owns(&self, member: MemberId, at: TopicPartition) -> bool {
        self.members.get(&member).is_some_and(|m| !m.expelled && m.owned.contains(&at))
    }

    /// Another distribution of the partitions.
    pub fn reshuffle(&mut self) {
        self.shuffle += 1;
    }

    pub fn next_event(&mut self, member: MemberId) -> Option<SourceEvent> {
        self.members.get_mut(&member)?.told.pop_front()
    }

    pub fn next_answer(&mut self, member: MemberId) -> Option<Result<(), String>> {
        self.members.get_mut(&member)?.answers.pop_front()
    }

    /// The member has given these back.
    pub fn give_back(&mut self, member: MemberId, partitions: &[TopicPartition]) {
        if let Some(m) = self.members.get_mut(&member) {
            for at in partitions {
                m.owned.remove(at);
                m.revoking.remove(at);
            }
        }
    }

    pub fn request_commit(&mut self, member: MemberId, offsets: &[Commit], due: Duration, fate: CommitFate) {
        let given = offsets.iter().map(|c| self.given(c.at)).collect();
        self.requests.push_back(Request { member, offsets: offsets.to_vec(), given, due, fate });
    }

    fn given(&self, at: TopicPartition) -> u64 {
        self.given.get(&at).copied().unwrap_or_default()
    }

    /// Lets the coordinator do what is due, and returns the commits that it accepted.
    pub fn tick(&mut self, now: Duration, partitions: &[TopicPartition]) -> Vec<Accepted> {
        let late = |m: &Member| {
            let unanswered = m.revoking.values().any(|&since| now - since > self.session_timeout);
            !m.expelled && (unanswered || now - m.last_seen > self.session_timeout)
        };
        let expired: Vec<MemberId> = self.members.iter().filter(|(_, m)| late(m)).map(|(&id, _)| id).collect();
        for member in expired {
            self.expel(member);
        }
        let accepted = self.serve_commits(now);
        self.rebalance(now, partitions);
        accepted
    }

    fn serve_commits(&mut self, now: Duration) -> Vec<Accepted> {
        let mut accepted = Vec::new();
        // In the order in which each member sent them, as on one connection.
        let mut waiting = BTreeSet::new();
        let mut later = VecDeque::new();
        for request in std::mem::take(&mut self.requests) {
            if request.due > now || waiting.contains(&request.member) {
                waiting.insert(request.member);
                later.push_back(request);
                continue;
            }
            let mut offsets = request.offsets.iter().zip(&request.given);
            let may = offsets.all(|(c, given)| self.owns(request.member, c.at) && self.given(c.at) == *given);
            if may && request.fate != CommitFate::Lost {
                for c in request.offsets {
                    accepted.push(Accepted { member: request.member, at: c.at, next: c.next.0 });
                    self.committed.insert(c.at, (c.next.0, c.metadata));
                }
            }
            let answer = match request.fate {
                CommitFate::Answered if may => Ok(()),
                CommitFate::Answered => Err("the group has moved on".to_owned()),
                CommitFate::AnswerLost | CommitFate::Lost => Err("timed out".to_owned()),
            };
            if let Some(m) = self.members.get_mut(&request.member) {
                m.answers.push_back(answer);
            }
        }
        self.requests = later;
        accepted
    }

    /// Who should have what.
    fn targets(&self, partitions: &[TopicPartition]) -> BTreeMap<MemberId, BTreeSet<TopicPartition>> {
        let live: Vec<MemberId> =
            self.members.iter().filter(|(_, m)| !m.expelled && !m.leaving).map(|(&id, _)| id).collect();
        let mut targets: BTreeMap<_, BTreeSet<_>> = live.iter().map(|&m| (m, BTreeSet::new())).collect();
        for (index, &at) in partitions.iter().enumerate() {
            if !live.is_empty() {
                let member = live[(index + self.shuffle) % live.len()];
                targets.entry(member).or_default().insert(at);
            }
        }
        targets
    }

    fn rebalance(&mut self, now: Duration, partitions: &[TopicPartition]) {
        let targets = self.targets(partitions);
        let none = BTreeSet::new();
        if self.eager {
            let settled = |(id, m): (&MemberId, &Member)| m.expelled || m.owned == *targets.get(id).unwrap_or(&none);
            self.gathering |= !self.members.iter().all(settled);
            if !self.gathering {
                return;
            }
        }
        for (id, m) in self.members.iter_mut().filter(|(_, m)| !m.expelled) {
            let keep = if self.eager { &none } else { targets.get(id).unwrap_or(&none) };
            let extra: Vec<_> = m.owned.difference(keep).copied().filter(|at| !m.revoking.contains_key(at)).collect();
            if !extra.is_empty() {
                m.revoking.extend(extra.iter().map(|&at| (at, now)));
                m.told.push_back(SourceEvent::Revoked(extra));
            }
        }
        if self.eager {
            if self.members.values().any(|m| !m.owned.is_empty()) {
                return;
            }
            self.gathering = false;
        }
        self.hand_over(&targets);
    }

    /// Gives out what nobody owns.
    fn hand_over(&mut self, targets: &BTreeMap<MemberId, BTreeSet<TopicPartition>>) {
        let taken: BTreeSet<TopicPartition> = self.members.values().flat_map(|m| m.owned.iter().copied()).collect();
        for (id, target) in targets {
            let Some(m) = self.members.get_mut(id) else { continue };
            let missing: Vec<_> = target.difference(&taken).copied().collect();
            // An eager rebalance assigns to everybody, nothing to some.
            missing.iter().for_each(|at| *self.given.entry(*at).or_default() += 1);
            if !missing.is_empty() || (self.eager && target.is_empty()) {
                m.owned.extend(missing.iter().copied());
                m.told.push_back(SourceEvent::Assigned(missing));
            }
        }
    }
}
