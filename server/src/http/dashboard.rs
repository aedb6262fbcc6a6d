//! The dashboard: files that are in the binary. What they show they ask for as anybody may.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use super::problem;

/// The page itself.
pub(super) const PAGE: &str = include_str!("../../assets/dashboard/index.html");

macro_rules! files {
    ($($name:literal => $kind:literal;)+) => {
        /// What the page asks for: name, type, text.
        const FILES: &[(&str, &str, &str)] = &[
            $(($name, $kind, include_str!(concat!("../../assets/dashboard/", $name))),)+
        ];
    };
}

files! {
    "style.css" => "text/css";
    "app.js" => "text/javascript";
    "api.js" => "text/javascript";
    "parts.js" => "text/javascript";
    "stores.js" => "text/javascript";
    "map.js" => "text/javascript";
    "heat.js" => "text/javascript";
    "operators.js" => "text/javascript";
    "latency.js" => "text/javascript";
}

/// Nothing but what comes from this node, no text as code, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, format!("{kind}; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        // Another version of the node has other files of the same names.
        (header::CACHE_CONTROL, "no-cache".to_owned()),
    ];
    (headers, text).into_response()
}

pub(super) async fn show_page() -> Response {
    file("text/html", PAGE)
}

pub(super) async fn show_file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => file(kind, text),
        None => problem(
            StatusCode::NOT_FOUND,
            format!("the dashboard has no file {name:?}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It works without a network beside the node's, and under the policy above.
    #[test]
    fn the_files_name_no_other_host_and_hold_no_script_in_the_page() {
        let all = FILES.iter().map(|(name, _, text)| (*name, *text));
        for (name, text) in all.chain([("index.html", PAGE)]) {
            for foreign in ["https://", "\"//", "'//", "@import", "eval(", "innerHTML"] {
                assert!(!text.contains(foreign), "{name} has {foreign}");
            }
            let plain = text.matches("http://").count();
            let drawings = text.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(plain, drawings, "{name} names a host");
        }
        for inline in ["<script>", "style=", " onclick"] {
            assert!(!PAGE.contains(inline), "the page has {inline}");
        }
    }
}
