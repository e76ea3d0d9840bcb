//! The parser and the connection without sockets: what is understood and what is refused ([`table`]), and that neither depends on
//! how the bytes were split, nor on luck ([`fuzz`]). With real sockets: `tests/it/http`.

mod fuzz;
mod reference;
mod script;
mod table;
mod turns;
