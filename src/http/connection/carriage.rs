//! Bytes between a connection's buffers and what carries them.

use std::io::{self, IoSlice};

use super::super::Service;
use super::super::output::SLICES;
use super::super::refusal::Refusal;
use super::super::response::Status;
use super::super::stream::Carrier;
use super::{Connection, Context, TURN_READS, Turn};

impl<C: Carrier> Connection<C> {
    /// Sends what the peer takes. `false`: it would take more, and the turn is over.
    pub(super) fn flush<V>(&mut self, cx: &mut Context<'_, V>) -> io::Result<bool> {
        self.output.mark(cx.now);
        while self.writable && !self.output.is_empty() {
            let written = match self.output.contiguous() {
                Some(bytes) => self.carrier.write(bytes),
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let count = self.output.slices(&mut slices);
                    self.carrier.write_vectored(&slices[..count])
                }
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.output.sent(length, cx.now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.writable && !self.output.is_empty() && cx.is_spent() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn read<V: Service>(&mut self, cx: &mut Context<'_, V>) -> io::Result<()> {
        if !cx.pool.make_room(&mut self.input) {
            let max = cx.limits.buffered_bytes_max;
            let reason = format!("found {max} bytes of unfinished requests already; expected no more at a time");
            self.refuse(Refusal::new(Status::SERVICE_UNAVAILABLE, reason), cx);
            return Ok(());
        }
        let room = self.input.room();
        let wanted = room.len();
        match self.carrier.read(room) {
            Ok(0) => (self.eof, self.readable) = (true, false),
            Ok(length) => {
                self.input.filled(length);
                // A short read took all there was; of what comes later there will be word. Only an end that is known already
                // is not told twice.
                self.readable = length == wanted || self.ended;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Drops what still comes, so that closing does not become a reset.
    pub(super) fn linger<V: Service>(&mut self, cx: &mut Context<'_, V>) -> io::Result<Turn> {
        for _ in 0..TURN_READS {
            cx.pool.take_input(&mut self.input);
            if !self.readable {
                return Ok(Turn::Wait);
            }
            if !cx.pool.make_room(&mut self.input) {
                return Ok(Turn::Close);
            }
            self.read(cx)?;
            if self.eof {
                return Ok(Turn::Close);
            }
        }
        Ok(Turn::Again)
    }
}
