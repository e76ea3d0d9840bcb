//! Which route a request is for. Reads a method and a path's segments; decides nothing else.

use std::borrow::Cow;

use crate::config::ingest::{Method, Route, Segment};

/// The routes' paths and methods.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    entries: Vec<(Vec<Segment>, Vec<Method>)>,
    segments_max: usize,
}

/// What a request's path and method lead to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'r> {
    Route {
        route: usize,
        method: Method,
        /// The parameters' values, in the order of the path.
        values: Vec<Cow<'r, str>>,
    },
    /// For the header `Allow`.
    OtherMethods(String),
    Nothing,
}

impl Paths {
    pub fn new(routes: &[Route]) -> Paths {
        let entries: Vec<_> = routes.iter().map(|route| (route.path.clone(), route.methods.clone())).collect();
        let segments_max = entries.iter().map(|(path, _)| path.len()).max().unwrap_or(0);
        Paths { entries, segments_max }
    }

    /// `segments` are those of the path, decoded one by one.
    pub fn find<'r>(&self, method: &str, segments: impl Iterator<Item = Cow<'r, str>>) -> Found<'r> {
        // A path with more of them than any route has is not read to its end.
        let mut segments: Vec<Cow<'r, str>> = segments.take(self.segments_max + 1).collect();
        let known = Method::of(method);
        let mut allowed: Vec<Method> = Vec::new();
        for (route, (path, methods)) in self.entries.iter().enumerate() {
            if !fits(path, &segments) {
                continue;
            }
            match known.filter(|method| methods.contains(method)) {
                Some(method) => {
                    let values = path.iter().zip(&mut segments).filter_map(|(segment, value)| match segment {
                        Segment::Parameter(_) => Some(std::mem::take(value)),
                        Segment::Literal(_) => None,
                    });
                    return Found::Route { route, method, values: values.collect() };
                }
                None => allowed.extend(methods),
            }
        }
        if allowed.is_empty() {
            return Found::Nothing;
        }
        allowed.sort();
        Found::OtherMethods(allowed.iter().map(|method| method.name()).collect::<Vec<_>>().join(", "))
    }
}

fn fits(path: &[Segment], segments: &[Cow<'_, str>]) -> bool {
    let one = |(wanted, found): (&Segment, &Cow<'_, str>)| match wanted {
        Segment::Literal(text) => text == found,
        Segment::Parameter(_) => !found.is_empty(),
    };
    path.len() == segments.len() && path.iter().zip(segments).all(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UnknownFields;
    use crate::config::ingest::{Key, Mode, path};

    fn paths(routes: &[(&str, &[Method])]) -> Paths {
        let route = |(template, methods): &(&str, &[Method])| Route {
            path: path(template).expect("a path"),
            methods: methods.to_vec(),
            topic: 0,
            key: Key::Json,
            mode: Mode::Async,
            unknown_fields: UnknownFields::Error,
        };
        Paths::new(&routes.iter().map(route).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check(paths: &Paths, method: &str, segments: &[&'static str], expected: Result<(usize, &[&str]), Option<&str>>) {
        let found = paths.find(method, segments.iter().map(|segment| Cow::Borrowed(*segment)));
        let found = match &found {
            Found::Route { route, values, .. } => Ok((*route, values.iter().map(|v| &**v).collect::<Vec<_>>())),
            Found::OtherMethods(allow) => Err(Some(allow.as_str())),
            Found::Nothing => Err(None),
        };
        assert_eq!(found, expected.map(|(route, values)| (route, values.to_vec())), "{method} {segments:?}");
    }

    #[test]
    fn routes_are_found() {
        use Method::{Delete, Patch, Post, Put};
        let paths = paths(&[
            ("/apps/{app}/subs/{sub}", &[Put, Patch]),
            ("/apps/{app}/subs/{sub}", &[Delete]),
            ("/events", &[Post]),
            ("/apps/{app}", &[Put]),
        ]);
        check(&paths, "PUT", &["apps", "a", "subs", "1"], Ok((0, &["a", "1"])));
        check(&paths, "DELETE", &["apps", "a/b", "subs", "ü"], Ok((1, &["a/b", "ü"])));
        check(&paths, "POST", &["events"], Ok((2, &[])));
        check(&paths, "PUT", &["apps", "x"], Ok((3, &["x"])));
        check(&paths, "GET", &["apps", "a", "subs", "1"], Err(Some("PUT, PATCH, DELETE")));
        check(&paths, "put", &["events"], Err(Some("POST")));
        check(&paths, "PUT", &["apps", ""], Err(None));
        check(&paths, "PUT", &["apps", "a", "subs"], Err(None));
        check(&paths, "PUT", &["apps", "a", "subs", "1", "more", "and", "more"], Err(None));
        check(&paths, "PUT", &[""], Err(None));
        check(&paths, "POST", &["events", ""], Err(None));
    }
}
