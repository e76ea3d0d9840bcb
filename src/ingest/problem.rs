//! Why a request was refused, as RFC 9457 has it. What was found is told in kinds of things, never as the value itself: answers end up in the
//! logs of others.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::http::{Response, Status};
use crate::metrics::labelled::Refused;

/// Characters of each of its texts.
const CHARS_MAX: usize = 100;
/// Of `detail`, which holds the others.
const DETAIL_CHARS_MAX: usize = 500;

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    refused: Refused,
    detail: Cow<'static, str>,
    field: Option<String>,
    differs: Option<(Cow<'static, str>, Cow<'static, str>)>,
}

impl Problem {
    pub fn new(refused: Refused, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem(Box::new(Parts { refused, detail: detail.into(), field: None, differs: None }))
    }

    pub fn differs(
        refused: Refused,
        field: Option<&str>,
        found: impl Into<Cow<'static, str>>,
        expected: impl Into<Cow<'static, str>>,
    ) -> Problem {
        let field = field.map(|field| cut(field, CHARS_MAX).into_owned());
        let (found, expected): (Cow<'static, str>, Cow<'static, str>) = (found.into(), expected.into());
        let place = field.as_ref().map_or_else(String::new, |field| format!("field {field:?}: "));
        let detail = format!("{place}found {found}, expected {expected}").into();
        Problem(Box::new(Parts { refused, detail, field, differs: Some((found, expected)) }))
    }

    pub fn refused(&self) -> Refused {
        self.0.refused
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    pub fn status(&self) -> Status {
        status(self.0.refused)
    }

    pub fn response(&self) -> Response {
        let Parts { refused, detail, field, differs } = &*self.0;
        let status = status(*refused);
        let mut problem = Map::new();
        let mut put = |name: &str, value: Value| drop(problem.insert(name.to_owned(), value));
        put("title", status.reason().into());
        put("status", status.0.into());
        put("detail", cut(detail, DETAIL_CHARS_MAX).into());
        if let Some(field) = field {
            put("field", field.as_str().into());
        }
        if let Some((found, expected)) = differs {
            put("found", cut(found, CHARS_MAX).into());
            put("expected", cut(expected, CHARS_MAX).into());
        }
        let response = Response::with_body(status, "application/problem+json", Value::Object(problem).to_string());
        match status {
            Status::SERVICE_UNAVAILABLE => response.header("Retry-After", "1"),
            Status::UNAUTHORIZED => response.header("WWW-Authenticate", "Bearer"),
            _ => response,
        }
    }
}

/// What a refusal means to the client.
pub fn status(refused: Refused) -> Status {
    match refused {
        Refused::Token => Status::UNAUTHORIZED,
        Refused::NoRoute => Status::NOT_FOUND,
        Refused::Method => Status::METHOD_NOT_ALLOWED,
        Refused::MediaType => Status::UNSUPPORTED_MEDIA_TYPE,
        Refused::TooLarge => Status::CONTENT_TOO_LARGE,
        Refused::NotJson => Status::BAD_REQUEST,
        Refused::Unfit | Refused::Contradiction | Refused::Tenant => Status::UNPROCESSABLE_CONTENT,
        Refused::Conflict => Status::CONFLICT,
        Refused::QueueFull | Refused::Deadline | Refused::Brokers | Refused::Unknown => Status::SERVICE_UNAVAILABLE,
        Refused::NoConnection | Refused::RowBusy | Refused::Database => Status::SERVICE_UNAVAILABLE,
    }
}

fn cut(text: &str, chars_max: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars_max) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_what_and_what_instead() {
        let problem = Problem::differs(Refused::Unfit, Some("n"), "a string", "integer");
        let response = problem.response();
        let json: Value = serde_json::from_slice(response.body()).expect("JSON");
        let expected = serde_json::json!({
            "title": "Unprocessable Content", "status": 422, "detail": "field \"n\": found a string, expected integer",
            "field": "n", "found": "a string", "expected": "integer",
        });
        assert_eq!((json, response.status()), (expected, Status::UNPROCESSABLE_CONTENT));
    }

    #[test]
    fn nothing_of_it_is_long() {
        let long = "ü".repeat(10_000);
        let problem = Problem::differs(Refused::Unfit, Some(&long), long.clone(), long.clone());
        let response = problem.response();
        let json: Value = serde_json::from_slice(response.body()).expect("JSON");
        for (name, most) in [("field", 101), ("found", 101), ("expected", 101), ("detail", 501)] {
            let text = json[name].as_str().expect("text");
            assert!(text.chars().count() == most && text.ends_with('…'), "{name}: {}", text.chars().count());
        }
    }

    #[test]
    fn who_may_try_again_is_told_so() {
        for refused in Refused::ALL {
            let problem = Problem::new(*refused, "x");
            let retry = format!("{:?}", problem.response()).contains("Retry-After");
            assert_eq!(retry, problem.status() == Status::SERVICE_UNAVAILABLE, "{refused:?}");
        }
    }
}
