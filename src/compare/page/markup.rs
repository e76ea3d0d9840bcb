//! HTML as it is put together: whatever comes from outside is escaped on its way in, since there is no other way in.

use std::fmt::{Display, Write};

use super::figures::NBSP;
use crate::words::harmless;

/// A piece of a document, ready to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Markup(String);

/// An element with its attributes. Names stand in this program's source, values may come from anywhere.
pub fn el(name: &'static str, attributes: &[(&'static str, &dyn Display)], inside: impl Into<Markup>) -> Markup {
    let mut markup = format!("<{name}");
    for (attribute, value) in attributes {
        // Writing to a String cannot fail.
        let _ = write!(markup, " {attribute}=\"{}\"", escaped(&value.to_string()));
    }
    let _ = write!(markup, ">{}</{name}>", inside.into().0);
    Markup(markup)
}

/// Without attributes, which most are.
pub fn plain(name: &'static str, inside: impl Into<Markup>) -> Markup {
    el(name, &[], inside)
}

/// With a class.
pub fn classed(name: &'static str, class: &'static str, inside: impl Into<Markup>) -> Markup {
    el(name, &[("class", &class)], inside)
}

/// What was written by others, or holds something that was: no control character, no mark of direction gets through. (The space
/// between a number and its unit does.)
pub fn foreign(text: &str) -> Markup {
    Markup::from(text.split(NBSP).map(harmless).collect::<Vec<_>>().join("\u{a0}"))
}

impl Markup {
    /// What stands in this program's source as HTML.
    pub fn source(html: &'static str) -> Markup {
        Markup(html.to_owned())
    }

    pub fn and(mut self, next: impl Into<Markup>) -> Markup {
        self.0.push_str(&next.into().0);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

/// A text: it is escaped.
impl From<&str> for Markup {
    fn from(text: &str) -> Markup {
        Markup(escaped(text))
    }
}

impl From<String> for Markup {
    fn from(text: String) -> Markup {
        Markup(escaped(&text))
    }
}

impl From<Vec<Markup>> for Markup {
    fn from(pieces: Vec<Markup>) -> Markup {
        pieces.into_iter().collect()
    }
}

impl FromIterator<Markup> for Markup {
    fn from_iter<I: IntoIterator<Item = Markup>>(pieces: I) -> Markup {
        pieces.into_iter().fold(Markup::default(), Markup::and)
    }
}

/// Right in an element and in an attribute in double quotes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_in_as_markup() {
        let hostile = "</p><img src=x onerror=\"alert('1')\">&";
        let made = el("p", &[("title", &hostile)], hostile).into_string();
        let safe = "&lt;/p&gt;&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;";
        assert_eq!(made, format!("<p title=\"{safe}\">{safe}</p>"));
        assert_eq!(foreign("5\u{a0}s\u{202e}<b\n").into_string(), "5\u{a0}s\\u{202e}&lt;b\\n");
    }

    #[test]
    fn elements_stand_in_elements() {
        let items = vec![plain("li", "1 < 2"), classed("li", "bad", "&")];
        let list = plain("ul", items).and(Markup::source("<br>"));
        assert_eq!(list.into_string(), "<ul><li>1 &lt; 2</li><li class=\"bad\">&amp;</li></ul><br>");
    }
}
