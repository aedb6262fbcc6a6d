//! Which requests a browser may send: those of the dashboard, not those of other sites' pages that
//! the same browser shows.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{HOST, ORIGIN, USER_AGENT};
use http::{HeaderMap, Method, StatusCode, Uri, uri::Authority};

use super::{Pages, problem};

/// Refuses what other sites have a browser ask.
pub(super) async fn check(State(pages): State<Pages>, request: Request, next: Next) -> Response {
    match refusal(
        request.method(),
        request.uri(),
        request.headers(),
        &pages.own_name,
    ) {
        Some(why) => problem(StatusCode::FORBIDDEN, why),
        None => next.run(request).await,
    }
}

/// Why a request is refused. `own`: the name or address by which others reach this node.
fn refusal(method: &Method, uri: &Uri, headers: &HeaderMap, own: &OwnName) -> Option<&'static str> {
    const OTHER: &str =
        "a page of another site asks this; open the dashboard itself, or ask without a browser";
    const NAME: &str =
        "this host name is not the node's: ask by its address, or by the name in `addr.advertise`";
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let origin = headers
        .get(ORIGIN)
        .map(|origin| origin.to_str().unwrap_or_default());
    let site = text("sec-fetch-site");
    let agent = headers
        .get(USER_AGENT)
        .map_or(&[][..], |agent| agent.as_bytes());
    if origin.is_none() && site.is_none() && !agent.starts_with(b"Mozilla/") {
        return None;
    }
    let host = uri.authority().cloned().or_else(|| {
        let host = headers.get(HOST)?.to_str().ok()?;
        host.parse::<Authority>().ok()
    });
    let Some(host) = host else { return Some(OTHER) };
    // Another site's name may lead to this machine; its pages would be of the same origin then.
    if !own.tls && !own.is(host.host()) {
        return Some(NAME);
    }
    let link = method == Method::GET && text("sec-fetch-mode") == Some("navigate");
    let own_site = matches!(site, None | Some("same-origin" | "none"));
    if !own_site && !link {
        return Some(OTHER);
    }
    let of_host = |origin: &str| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority == Some(host.as_str())
    };
    (!origin.is_none_or(of_host)).then_some(OTHER)
}

/// By what this node is reached.
#[derive(Clone, Debug)]
pub(crate) struct OwnName {
    /// A name, or an address.
    pub(crate) host: String,
    /// It shows a certificate: nobody else's name leads here unnoticed.
    pub(crate) tls: bool,
}

impl OwnName {
    fn is(&self, host: &str) -> bool {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        address || host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(&self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, headers: &[(&'static str, &str)], allowed: bool) {
        let own = OwnName {
            host: "db-1.example".to_owned(),
            tls: false,
        };
        let named = headers.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, value.parse().expect("a value"))
        });
        let headers: HeaderMap = named.collect();
        let (method, uri) = (method.parse().expect("a method"), Uri::from_static("/x"));
        let refusal = refusal(&method, &uri, &headers, &own);
        assert_eq!(refusal.is_none(), allowed, "{headers:?}: {refusal:?}");
    }

    #[test]
    fn programs_are_not_browsers() {
        check("POST", &[("host", "anything:1")], true);
        check("POST", &[("user-agent", "curl/8.0")], true);
    }

    #[test]
    fn the_dashboard_asks_its_own_node() {
        let agent = ("user-agent", "Mozilla/5.0");
        for host in [
            "127.0.0.1:20160",
            "[::1]:20160",
            "localhost:20160",
            "DB-1.example:80",
        ] {
            let origin = format!("http://{host}");
            let headers = [agent, ("host", host), ("origin", origin.as_str())];
            check("POST", &headers, true);
            check("GET", &[agent, ("host", host)], true);
        }
        let typed = [("host", "127.0.0.1:1"), ("sec-fetch-site", "none")];
        check("GET", &typed, true);
    }

    #[test]
    fn other_sites_ask_for_nothing() {
        let host = ("host", "127.0.0.1:20160");
        check("POST", &[host, ("origin", "http://evil.example")], false);
        check("POST", &[host, ("origin", "null")], false);
        check("POST", &[host, ("origin", "http://127.0.0.1:8080")], false);
        check("GET", &[host, ("sec-fetch-site", "cross-site")], false);
        check("GET", &[host, ("sec-fetch-site", "same-site")], false);
        check("POST", &[("origin", "http://127.0.0.1")], false);
        // A name of theirs that leads here.
        let rebound = [
            ("host", "evil.example:20160"),
            ("user-agent", "Mozilla/5.0"),
        ];
        check("GET", &rebound, false);
        // A link to the dashboard is no harm.
        let link = [
            host,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        check("GET", &link, true);
        check("POST", &link, false);
    }
}
