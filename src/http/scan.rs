//! Where a head ends. One look at each byte, whenever it comes, so that the result never depends on how the bytes were split,
//! and a head that comes byte by byte costs no more than one that comes at once.
//!
//! It refuses what no head may hold: line ends other than CR LF, control characters, folded lines. What the lines mean is for
//! [`super::head`].

use super::limits::Limits;
use super::refusal::Refusal;
use super::response::Status;

/// A scan that goes on where it stopped.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    at: usize,
    begin: usize,
    place: Place,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// The request line's first byte, or an empty line that some clients put behind a body (RFC 9112, 2.2).
    #[default]
    Begin,
    /// The line feed of that empty line.
    BlankLf,
    /// The request line's first byte, and no other empty line.
    Method,
    RequestLine,
    RequestLf,
    /// The first byte of a header, or the line that ends the head.
    LineBegin,
    Line,
    LineLf,
    EndLf,
}

impl Scan {
    /// Whether no byte of a request line was seen yet.
    pub fn is_fresh(&self) -> bool {
        matches!(self.place, Place::Begin | Place::BlankLf | Place::Method)
    }

    /// Goes on in `bytes`, which begin where they did before. The range is the head's, with the empty line that ends it.
    pub fn advance(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<std::ops::Range<usize>>, Refusal> {
        let until = bytes.len().min(limits.head_bytes_max);
        while self.at < until {
            let byte = bytes[self.at];
            self.at += 1;
            self.place = match self.place {
                Place::RequestLine if is_visible(byte) || byte == b' ' => Place::RequestLine,
                Place::RequestLine if byte == b'\r' => Place::RequestLf,
                Place::RequestLine => return Err(odd_byte("the request line", byte)),
                Place::Line if is_value_byte(byte) => Place::Line,
                Place::Line if byte == b'\r' => Place::LineLf,
                Place::Line => return Err(odd_byte("a header", byte)),
                Place::LineBegin => line_begin(byte)?,
                Place::Begin if byte == b'\r' => Place::BlankLf,
                Place::Begin | Place::Method => first_byte(byte)?,
                Place::BlankLf | Place::RequestLf | Place::LineLf | Place::EndLf if byte != b'\n' => {
                    return Err(Refusal::bad(
                        "found a carriage return without a line feed; expected both at each line's end",
                    ));
                }
                Place::BlankLf => Place::Method,
                Place::RequestLf | Place::LineLf => Place::LineBegin,
                Place::EndLf => return Ok(Some(self.begin..self.at)),
            };
            if self.place == Place::Method {
                self.begin = self.at;
            }
        }
        if bytes.len() < limits.head_bytes_max {
            return Ok(None);
        }
        let max = limits.head_bytes_max;
        Err(match self.place {
            Place::LineBegin | Place::Line | Place::LineLf | Place::EndLf => Refusal::new(
                Status::HEADERS_TOO_LARGE,
                format!("found no end of the headers; expected it within {max} bytes from the request's begin"),
            ),
            _ => Refusal::new(
                Status::URI_TOO_LONG,
                format!("found no end of the request line; expected it, and the headers, within {max} bytes"),
            ),
        })
    }
}

fn line_begin(byte: u8) -> Result<Place, Refusal> {
    match byte {
        b'\r' => Ok(Place::EndLf),
        b' ' | b'\t' => Err(Refusal::bad("found a line that begins with a blank; expected each header on one line")),
        byte if is_value_byte(byte) => Ok(Place::Line),
        byte => Err(odd_byte("a header", byte)),
    }
}

fn first_byte(byte: u8) -> Result<Place, Refusal> {
    match byte {
        byte if is_token_byte(byte) => Ok(Place::RequestLine),
        // The record type of a TLS handshake.
        0x16 => Err(Refusal::bad("found the begin of a TLS handshake; expected HTTP without TLS")),
        byte => Err(odd_byte("the request line", byte)),
    }
}

fn odd_byte(place: &str, byte: u8) -> Refusal {
    match byte {
        b'\n' => {
            Refusal::bad(format!("found a line feed without a carriage return in {place}; expected both at its end"))
        }
        byte => Refusal::bad(format!("found the byte 0x{byte:02x} in {place}; expected none such")),
    }
}

fn is_visible(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~')
}

/// What a header's line may hold: all but control characters. (Those above 0x7f are old, but allowed.)
pub(super) fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// A `tchar` of RFC 9110, 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
