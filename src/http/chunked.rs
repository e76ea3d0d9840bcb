//! Bodies in chunks (RFC 9112, 7.1), decoded in place: what is decoded is never longer than what it was decoded from.
//!
//! It takes exactly the grammar, without the blanks that the grammar tolerates, and drops extensions and trailers, of which it
//! takes few. Two readers who disagree on where a chunk ends disagree on where the next request begins.

use super::limits::Limits;
use super::refusal::Refusal;
use super::response::Status;
use super::scan::{is_token_byte, is_value_byte};

/// Digits of a chunk's size, zeros in front included. Eight are more than a body may have.
const DIGITS_MAX: u8 = 8;
/// Bytes of extensions of all the chunks of a body.
const EXTENSION_BYTES_MAX: usize = 1024;
/// Bytes of all the trailers of a body.
const TRAILER_BYTES_MAX: usize = 4096;

/// Decodes one body.
#[derive(Debug, Clone, Default)]
pub struct Chunked {
    place: Place,
    /// What is left of the chunk; or its size, as far as it was read.
    left: usize,
    digits: u8,
    body_bytes: usize,
    extension_bytes: usize,
    trailer_bytes: usize,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Size,
    /// The first byte of an extension.
    ExtensionBegin,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// The first byte of a trailer, or the line that ends the body.
    TrailerBegin,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// How far decoding came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// The end of what was taken.
    pub taken: usize,
    /// The end of what it was decoded to.
    pub written: usize,
    pub done: bool,
}

impl Chunked {
    /// Decodes the bytes from `from` on, to the same place. All are taken, unless the body ends before.
    pub fn decode(&mut self, bytes: &mut [u8], from: usize, limits: &Limits) -> Result<Decoded, Refusal> {
        let (mut taken, mut written) = (from, from);
        while taken < bytes.len() && self.place != Place::Done {
            if self.place == Place::Data {
                let length = self.left.min(bytes.len() - taken);
                bytes.copy_within(taken..taken + length, written);
                (taken, written, self.left) = (taken + length, written + length, self.left - length);
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            self.place = self.next(bytes[taken], limits)?;
            taken += 1;
        }
        Ok(Decoded { taken, written, done: self.place == Place::Done })
    }

    fn next(&mut self, byte: u8, limits: &Limits) -> Result<Place, Refusal> {
        match self.place {
            Place::Size => self.size(byte),
            Place::ExtensionBegin if is_token_byte(byte) => self.extension(),
            Place::Extension if byte == b'\r' => Ok(Place::SizeLf),
            Place::Extension if is_value_byte(byte) => self.extension(),
            Place::SizeLf if byte == b'\n' => self.begin_data(limits),
            Place::DataCr if byte == b'\r' => Ok(Place::DataLf),
            Place::DataLf if byte == b'\n' => {
                (self.left, self.digits) = (0, 0);
                Ok(Place::Size)
            }
            Place::TrailerBegin if byte == b'\r' => Ok(Place::EndLf),
            Place::TrailerBegin | Place::TrailerName if is_token_byte(byte) => self.trailer(Place::TrailerName),
            Place::TrailerName if byte == b':' => self.trailer(Place::TrailerValue),
            Place::TrailerValue if is_value_byte(byte) => self.trailer(Place::TrailerValue),
            Place::TrailerValue if byte == b'\r' => Ok(Place::TrailerLf),
            Place::TrailerLf if byte == b'\n' => Ok(Place::TrailerBegin),
            Place::EndLf if byte == b'\n' => Ok(Place::Done),
            place => Err(Refusal::bad(format!("found the byte 0x{byte:02x} {}", place.expectation()))),
        }
    }

    fn size(&mut self, byte: u8) -> Result<Place, Refusal> {
        match (byte, (byte as char).to_digit(16)) {
            (_, Some(_)) if self.digits == DIGITS_MAX => {
                Err(Refusal::bad(format!("found a chunk's size of more than {DIGITS_MAX} digits; expected no more")))
            }
            (_, Some(digit)) => {
                self.digits += 1;
                self.left = self.left * 16 + digit as usize;
                Ok(Place::Size)
            }
            (b'\r', _) if self.digits > 0 => Ok(Place::SizeLf),
            (b';', _) if self.digits > 0 => Ok(Place::ExtensionBegin),
            _ => Err(Refusal::bad(format!("found the byte 0x{byte:02x} {}", Place::Size.expectation()))),
        }
    }

    fn begin_data(&mut self, limits: &Limits) -> Result<Place, Refusal> {
        self.body_bytes += self.left;
        if self.body_bytes > limits.body_bytes_max {
            let (found, max) = (self.body_bytes, limits.body_bytes_max);
            let reason = format!("found chunks of {found} bytes and perhaps more; expected at most {max} in a body");
            return Err(Refusal::new(Status::CONTENT_TOO_LARGE, reason));
        }
        Ok(if self.left == 0 { Place::TrailerBegin } else { Place::Data })
    }

    fn extension(&mut self) -> Result<Place, Refusal> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX {
            let reason =
                format!("found more than {EXTENSION_BYTES_MAX} bytes of chunk extensions; expected no more in a body");
            return Err(Refusal::bad(reason));
        }
        Ok(Place::Extension)
    }

    fn trailer(&mut self, place: Place) -> Result<Place, Refusal> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX {
            let reason =
                format!("found more than {TRAILER_BYTES_MAX} bytes of trailers; expected no more behind a body");
            return Err(Refusal::new(Status::HEADERS_TOO_LARGE, reason));
        }
        Ok(place)
    }
}

impl Place {
    fn expectation(self) -> &'static str {
        match self {
            Place::Size => "in a chunk's size; expected hexadecimal digits, and then \";\" or the line's end",
            Place::ExtensionBegin | Place::Extension => "in a chunk's extension; expected a name and perhaps a value",
            Place::SizeLf => "behind the carriage return of a chunk's size; expected a line feed",
            Place::Data | Place::DataCr | Place::DataLf => {
                "behind a chunk; expected the line's end where its size says"
            }
            Place::TrailerBegin | Place::TrailerName => {
                "in a trailer's name; expected a name and a colon right behind it"
            }
            Place::TrailerValue => "in a trailer; expected no control characters",
            Place::TrailerLf | Place::EndLf | Place::Done => "behind a carriage return; expected a line feed",
        }
    }
}
