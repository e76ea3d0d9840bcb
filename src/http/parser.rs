//! From bytes to messages: one message at a time, wherever its bytes were split. Pure: it reads no socket and asks no clock, and
//! what it refuses or understands depends on the bytes alone.

use std::ops::Range;

use super::chunked::Chunked;
use super::head::{Framing, Head};
use super::limits::Limits;
use super::refusal::Refusal;
use super::scan::Scan;

/// Reads the message at the begin of a buffer.
#[derive(Debug, Default)]
pub struct Parser {
    head: Head,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head(Scan),
    /// A body that lies in the buffer as it came.
    Length(Range<usize>),
    /// A body of which what lies in `decoded` is in the buffer.
    Chunks {
        decoded: Range<usize>,
        decoder: Chunked,
    },
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Head(Scan::default())
    }
}

/// What the bytes amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed, behind the first `keep` of these; what lies behind those is used up.
    More { keep: usize },
    /// The message is complete. The next one begins at `end`.
    Complete { body: Range<usize>, end: usize },
}

impl Parser {
    /// Goes on with the message that `bytes` begin with: those that were kept, and new ones behind them.
    pub fn advance(&mut self, bytes: &mut [u8], limits: &Limits) -> Result<Progress, Refusal> {
        if let Stage::Head(scan) = &mut self.stage {
            let Some(at) = scan.advance(bytes, limits)? else {
                return Ok(Progress::More { keep: bytes.len() });
            };
            let end = at.end;
            self.head.parse(bytes, at, limits)?;
            self.stage = match self.head.framing {
                Framing::Length(length) => Stage::Length(end..end + length),
                Framing::Chunked => Stage::Chunks { decoded: end..end, decoder: Chunked::default() },
            };
        }
        match &mut self.stage {
            Stage::Length(body) if body.end <= bytes.len() => {
                Ok(Progress::Complete { body: body.clone(), end: body.end })
            }
            Stage::Chunks { decoded, decoder } => {
                // What came lies right behind what was decoded before.
                let step = decoder.decode(bytes, decoded.end, limits)?;
                decoded.end = step.written;
                Ok(match step.done {
                    true => Progress::Complete { body: decoded.clone(), end: step.taken },
                    false => Progress::More { keep: step.written },
                })
            }
            Stage::Length(_) | Stage::Head(_) => Ok(Progress::More { keep: bytes.len() }),
        }
    }

    /// Of the message at the begin, once that is [head-complete](Parser::has_head).
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Whether the head was read and the body was not yet.
    pub fn has_head(&self) -> bool {
        !matches!(self.stage, Stage::Head(_))
    }

    /// Whether no byte of a message was seen.
    pub fn is_fresh(&self) -> bool {
        matches!(&self.stage, Stage::Head(scan) if scan.is_fresh())
    }

    /// Turns to the next message.
    pub fn reset(&mut self) {
        self.stage = Stage::default();
    }
}
