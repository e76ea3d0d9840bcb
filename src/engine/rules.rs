//! The engine's half of the fence protocol: where a partition begins, who may go on with it, what is told to whom and in which
//! order. The other half, the tables and the statements, is in [`fence`](crate::sink::fence).
//!
//! # A tenure
//! A process that is assigned a partition asks every shard that its records can reach for its anchor (*locate*), asks the group
//! for its committed offset and what was noted with it, decides where to start, and takes the partition over in each shard, under
//! a new token each. From then on the fences of all its lanes are known, and each batch moves them from where they are believed to
//! be to where it leads. A tenure ends by revocation, or by a *rewind*: a new generation, which locates, takes over and starts
//! anew. Whatever contradicts what the tenure believes leads to a rewind, never to a correction of what it believes.
//!
//! # Where to start
//! - Every shard answers and has an anchor: at the least `done`, whatever the group's offset says.
//! - Otherwise at the least of the group's offset, the `done` of those that have an anchor, and the noted origin of those that
//!   answered without one (they forgot all they had). A shard that does not answer counts for nothing: what it says at its takeover
//!   may lead further back.
//! - Nothing of that is known: `auto.offset.reset` decides, once every shard has answered. While one is silent only "earliest" may
//!   begin, because it leaves nothing out.
//!
//! Librdkafka is always told where to begin and never decides (`auto.offset.reset = error` there): retention that overtakes a
//! paused partition would look like an ordinary gap.
//!
//! # After a mismatch, or an answer that never came
//! The worker reads the fences that its batch would have moved, and compares them with the move:
//!
//! | what the fences say | what it means | what follows |
//! |---|---|---|
//! | all are where the batch leads, under our token | it was applied | it is complete |
//! | all are where it began, under our token | it was not applied, or is still in flight | the identical batch again: if one in flight commits first, that mismatches, and the next look says "applied" |
//! | another token | somebody took over | still assigned: rewind; else the partition is let go |
//! | lower, missing or mixed | the database went back | rewind |
//!
//! # The switches
//! Each field of [`Rules`] is one rule; the simulation has a case for it that loses, repeats or hangs without it.

/// The protocol's rules that live in the engine, each of which the simulation switches off to show that it finds what breaks
/// then. All are on; there is no setting for them.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A takeover is tried until it works, at assignment, not when the first record comes: a partition whose shard was down then
    /// would stay nobody's.
    pub takeover_retried: bool,
    /// An anchor that must be created begins at the lesser of the noted origin and the start: a database that forgot its anchor
    /// forgot the records since its origin, too.
    pub noted_origin: bool,
    /// A takeover that finds less progress than the partition started from starts it over, from there: the shard was silent when
    /// the start was decided, or went back since.
    pub restart_when_done_lower: bool,
    /// Fences under another token, of a partition that is still assigned, are taken over again: a zombie may have been the last one
    /// to take over.
    pub retake_when_assigned: bool,
    /// Fences lower than believed, or mixed, lead to a rewind; they are never taken for the truth of this tenure: what lies between
    /// is not fetched again.
    pub never_adopt: bool,
    /// Progress is stored, and so compared with the fences, when nothing moved, too: behind a pooler nothing else shows that a
    /// database went back.
    pub compare_when_idle: bool,
    /// Kafka's commit waits for the progress that every relevant shard has acknowledged, and for the takeover of each.
    pub commit_only_acknowledged: bool,
    /// Stored progress rises only once the group has accepted a commit that notes the origins of all the partition's shards, none
    /// of them above the origin that its anchor has now. A shard that then forgets everything has nothing to say where it began,
    /// while the others say that they are further, and its records are skipped. The first commit of a tenure notes them at once.
    pub progress_behind_note: bool,
    /// A log that does not hold the start, or ends below what is durable, is believed only after asking again, behind a takeover:
    /// another owner may have gone on since, and retention after it.
    pub ask_again: bool,
    /// All later records of a parked key follow it.
    pub parked_follow: bool,
    /// After a lost answer to a write that happened, what is parked is read: only its transaction knew which keys it found locked.
    pub reread_parked: bool,
    /// Of a tenure that ended with parked keys nothing more is written, although nobody may have taken its fences yet.
    pub closed_stay_closed: bool,
    /// A key whose first record is at its last try for a missing parent is alone in its transaction, behind those among which the
    /// parent may be: what is refused for the sake of another hides it.
    pub last_try_alone: bool,
}

impl Rules {
    pub const ALL: Rules = Rules {
        takeover_retried: true,
        noted_origin: true,
        restart_when_done_lower: true,
        retake_when_assigned: true,
        never_adopt: true,
        compare_when_idle: true,
        commit_only_acknowledged: true,
        progress_behind_note: true,
        ask_again: true,
        parked_follow: true,
        reread_parked: true,
        closed_stay_closed: true,
        last_try_alone: true,
    };
}
