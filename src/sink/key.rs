//! `key_format`: how the key columns are read back from the text of a tombstone's key.

/// `{app_id}:{subscription_id}`: fields with literal text before, between and behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFormat {
    before: String,
    /// Each field's column, and the literal behind it; that of the last one ends the key.
    parts: Vec<(usize, String)>,
}

impl KeyFormat {
    /// `names` are the key columns, of which those marked in `needed` must occur. The error says what was expected.
    pub fn parse(format: &str, names: &[&str], needed: &[bool]) -> Result<KeyFormat, String> {
        let (before, mut rest) = format.split_once('{').ok_or("fields in braces")?;
        let mut parts: Vec<(usize, String)> = Vec::new();
        loop {
            let (name, behind) = rest.split_once('}').ok_or("a } for every {")?;
            let column =
                names.iter().position(|n| *n == name).ok_or_else(|| format!("{{{name}}} to be one of pk_fields"))?;
            if parts.iter().any(|(known, _)| *known == column) {
                return Err(format!("{{{name}}} once"));
            }
            match behind.split_once('{') {
                Some(("", _)) => return Err(format!("something that separates {{{name}}} from what is behind it")),
                Some((literal, next)) => {
                    parts.push((column, literal.to_owned()));
                    rest = next;
                }
                None => {
                    parts.push((column, behind.to_owned()));
                    break;
                }
            }
        }
        let missing =
            names.iter().zip(needed).enumerate().find(|(i, (_, needed))| **needed && !parts.iter().any(|p| p.0 == *i));
        match missing {
            Some((_, (name, _))) => Err(format!("{{{name}}} in it, too")),
            None => Ok(KeyFormat { before: before.to_owned(), parts }),
        }
    }

    /// Hands out each column with its text. A field ends at the first occurrence of the literal behind it; the last one takes
    /// the rest. False if the key does not have this form.
    pub fn split<'k>(&self, key: &'k str, mut part: impl FnMut(usize, &'k str)) -> bool {
        let Some(mut rest) = key.strip_prefix(self.before.as_str()) else { return false };
        let Some(((last, ending), firsts)) = self.parts.split_last() else { return false };
        for (column, literal) in firsts {
            let Some((text, behind)) = rest.split_once(literal.as_str()) else { return false };
            part(*column, text);
            rest = behind;
        }
        let Some(text) = rest.strip_suffix(ending.as_str()) else { return false };
        part(*last, text);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: &str, key: &str, expected: Option<&[(usize, &str)]>) {
        let format = KeyFormat::parse(format, &["a", "b"], &[false, false]).unwrap();
        let mut parts = Vec::new();
        let fits = format.split(key, |column, text| parts.push((column, text)));
        assert_eq!(fits.then_some(parts.as_slice()), expected, "{format:?} {key}");
    }

    #[test]
    fn keys_are_split() {
        check("{a}:{b}", "1:2", Some(&[(0, "1"), (1, "2")]));
        check("{b}:{a}", "1:2:3", Some(&[(1, "1"), (0, "2:3")]));
        check("app-{a}/{b}.x", "app-1/2.x", Some(&[(0, "1"), (1, "2")]));
        check("{a}", "", Some(&[(0, "")]));
        check("{a}:{b}", "1", None);
        check("x{a}", "1", None);
        check("{a}x", "1", None);
    }

    #[test]
    fn bad_formats_are_refused() {
        for format in ["", "a", "{a", "{c}", "{a}{b}", "{a}:{a}", "{a}"] {
            assert!(KeyFormat::parse(format, &["a", "b"], &[true, true]).is_err(), "{format}");
        }
        assert!(KeyFormat::parse("{a}", &["a", "b"], &[true, false]).is_ok());
    }
}
