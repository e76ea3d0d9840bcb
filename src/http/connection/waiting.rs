//! What a connection waits for, how long it may, and what it costs meanwhile.

use std::time::{Duration, Instant};

use super::super::Service;
use super::super::limits::Limits;
use super::super::patience::Awaited;
use super::super::refusal::Refusal;
use super::super::response::Status;
use super::super::stream::Carrier;
use super::{Connection, Context, Phase, Turn};

/// A connection that has not asked for anything yet was made to do so: it is given this long before it counts as idle.
const FRESH: Duration = Duration::from_secs(1);

impl<C: Carrier> Connection<C> {
    /// How long it has asked for nothing, if it could be closed without a loss.
    pub fn idle(&self, now: Instant) -> Option<Duration> {
        let asks = self.in_line || self.surplus || self.phase != Phase::Open;
        let idle = self.patience.waited(Awaited::Begin, now).filter(|_| !asks)?;
        (self.messages > 0 || idle >= FRESH).then_some(idle)
    }

    /// How long its peer has not taken what waits for it, and how much memory that holds, if it does.
    pub fn burden(&self, now: Instant) -> Option<(Duration, usize)> {
        (self.held > 0).then(|| (self.output.waited(now).unwrap_or_default(), self.held))
    }

    /// Notes since when the peer is waited for, and with what.
    pub(super) fn settle(&mut self, limits: &Limits, now: Instant) {
        let awaited = if self.phase != Phase::Open || self.is_paused(limits) || self.continue_owed {
            Awaited::Nothing
        } else if self.parser.has_head() {
            Awaited::BodyEnd
        } else if !self.parser.is_fresh() {
            Awaited::HeadEnd
        } else if !self.answers.is_empty() || !self.output.is_empty() {
            Awaited::Nothing
        } else if self.surplus {
            Awaited::SurplusBegin
        } else {
            Awaited::Begin
        };
        self.patience.settle(awaited, self.messages, now);
    }

    /// Looks at the deadlines. [`Turn::Again`] means that there is something to say.
    pub fn expire<V: Service>(&mut self, cx: &mut Context<'_, V>) -> Turn {
        if let Phase::Lingering { until } = self.phase {
            return if until <= cx.now { Turn::Close } else { Turn::Wait };
        }
        if self.output.waited(cx.now).is_some_and(|waited| waited >= cx.limits.write_deadline) {
            cx.counts.expired_writes += 1;
            return Turn::Close;
        }
        self.answers.shrink();
        let late = self.answers.expire(cx.now);
        cx.counts.expired_answers += late;
        let quiet = if late > 0 { Turn::Again } else { Turn::Wait };
        let (what, within) = match self.patience.is_over(cx.limits, cx.now) {
            None => return quiet,
            Some((Awaited::Begin | Awaited::SurplusBegin | Awaited::Nothing, _)) => {
                cx.counts.expired_idle += 1;
                return Turn::Close;
            }
            Some((Awaited::HeadEnd, within)) => ("head", within),
            Some((Awaited::BodyEnd, within)) => ("body", within),
        };
        cx.counts.expired_reads += 1;
        let reason = format!("found no end of the request's {what}; expected it within {within:?}");
        self.refuse(Refusal::new(Status::REQUEST_TIMEOUT, reason), cx);
        Turn::Again
    }
}
