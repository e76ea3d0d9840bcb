//! The page for people, as one document: what lies in `page/`, put together, with the policy that lets nothing else in. It
//! shows what `/status` says and asks for that itself; nothing of this process's state is ever written into the document.

use std::sync::LazyLock;

use openssl::base64::encode_block;
use openssl::sha::sha256;

const INDEX: &str = include_str!("page/index.html");

use super::diagnosis::LATE_MS;

/// By day and by night; for every page of ours.
pub const COLOURS: &str = include_str!("page/colours.css");

/// As the document names them, in its order.
const STYLES: [(&str, &str); 2] = [("colours.css", COLOURS), ("page.css", include_str!("page/page.css"))];

/// Likewise.
const SCRIPTS: [(&str, &str); 11] = [
    ("dom.js", include_str!("page/dom.js")),
    ("words.js", include_str!("page/words.js")),
    ("diagnose.js", include_str!("page/diagnose.js")),
    ("charts.js", include_str!("page/charts.js")),
    ("overview.js", include_str!("page/overview.js")),
    ("shards.js", include_str!("page/shards.js")),
    ("work.js", include_str!("page/work.js")),
    ("lists.js", include_str!("page/lists.js")),
    ("talk.js", include_str!("page/talk.js")),
    ("actions.js", include_str!("page/actions.js")),
    ("page.js", include_str!("page/page.js")),
];

/// With what is decided elsewhere filled in.
fn scripts() -> impl Iterator<Item = (&'static str, String)> {
    SCRIPTS.iter().map(|(name, script)| (*name, script.replace("__LATE_MS__", &LATE_MS.to_string())))
}

static DOCUMENT: LazyLock<(String, String)> = LazyLock::new(|| (assembled(), policy()));

/// The document, and what is to be sent with it as `Content-Security-Policy`. Its type is `text/html; charset=utf-8`.
pub fn document() -> (&'static [u8], &'static str) {
    let (body, policy) = &*DOCUMENT;
    (body.as_bytes(), policy)
}

fn assembled() -> String {
    let styled = STYLES.iter().fold(INDEX.to_owned(), |index, (name, style)| {
        index.replace(&format!("<link rel=\"stylesheet\" href=\"{name}\">"), &format!("<style>{style}</style>"))
    });
    scripts().fold(styled, |index, (name, script)| {
        index.replace(&format!("<script src=\"{name}\"></script>"), &format!("<script>{script}</script>"))
    })
}

/// Scripts and styles by their hashes, requests to where the page came from, the tab's icon; all else is refused, and so is
/// every way of reading a string as HTML.
fn policy() -> String {
    let scripts = hashes(scripts().map(|(_, script)| hash(&script)));
    let styles = hashes(STYLES.iter().map(|(_, style)| hash(style)));
    format!(
        "default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
}

fn hashes(of: impl Iterator<Item = String>) -> String {
    of.collect::<Vec<String>>().join(" ")
}

/// Of a script or a style, as a policy names it.
pub fn hash(text: &str) -> String {
    format!("'sha256-{}'", encode_block(&sha256(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_to_be_loaded() {
        let (body, _) = document();
        let body = std::str::from_utf8(body).expect("text");
        for outside in ["src=", "rel=\"stylesheet\"", "http://", "https://", "@import", "url("] {
            let allowed = ["http://www.w3.org/2000/svg"];
            let found = body
                .match_indices(outside)
                .map(|(at, _)| body[at..].split(['\'', '"', ' ']).next().unwrap_or_default());
            let found: Vec<&str> = found.filter(|found| !allowed.contains(found)).collect();
            assert!(found.is_empty(), "{outside}: {found:?}");
        }
        assert_eq!(body.matches("<script>").count(), SCRIPTS.len());
        assert_eq!(body.matches("</script>").count(), SCRIPTS.len());
        assert_eq!(body.matches("<style>").count(), STYLES.len());
    }

    #[test]
    fn limits_are_those_of_the_diagnosis() {
        let (body, _) = document();
        let body = std::str::from_utf8(body).expect("text");
        assert!(body.contains(&format!("const LATE_MS = {LATE_MS};")) && !body.contains("__LATE_MS__"));
    }

    #[test]
    fn strings_are_never_read_as_markup() {
        let inline = [" onclick=", " onload=", " onerror=", " style=\"", "javascript:"];
        for refused in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            assert!(SCRIPTS.iter().all(|(_, script)| !script.contains(refused)), "{refused}");
        }
        assert!(inline.iter().all(|refused| !INDEX.contains(refused)));
    }

    #[test]
    fn the_policy_knows_scripts_and_styles_by_their_hashes() {
        // RFC 6234's "abc".
        assert_eq!(hash("abc"), "'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='");
        let (_, policy) = document();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert_eq!(policy.matches("'sha256-").count(), SCRIPTS.len() + STYLES.len());
        assert!(!policy.contains("unsafe") && !policy.contains('\n'), "{policy}");
    }
}
