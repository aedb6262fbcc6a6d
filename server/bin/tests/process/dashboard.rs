//! The dashboard in a real browser, in front of three nodes: it shows what is there, follows what
//! changes, steers, asks nobody else, and other sites' pages cannot ask in its name.

use serde_json::{Value, json};

use crate::browser::{self, Browser};
use crate::client::{Client, put};
use crate::cluster::{folder, three_voters, try_send};
use crate::ctl::{done, json as ctl_json};
use crate::node::{eventually, not_shown_here};
use crate::wire;

const PAGE: &str = "/dashboard";
const REGIONS: &str = "Number(document.getElementById('map').dataset.regions)";
/// The colour of the first region.
const COLOUR: &str =
    "[...document.getElementById('map').getContext('2d').getImageData(4, 4, 1, 1).data].join()";

fn regions(addr: &str) -> Value {
    let page = wire::get(addr, "/pd/api/v1/regions/count").body;
    let count: Value = serde_json::from_str(&page).expect("JSON");
    count["count"].clone()
}

#[test]
fn it_shows_the_cluster_and_steers_it() {
    let Some(program) = browser::installed() else {
        not_shown_here("the dashboard", "chromium is not installed");
        return;
    };
    let dirs = [folder(), folder(), folder()];
    let nodes = three_voters(&dirs);
    let pd = nodes[0].addr();
    done(pd, "region split --at m");
    eventually("a write to be taken", || {
        try_send(&nodes, "row", put("row", "value"))
    });
    // One that does not lead PD shows the same.
    let addr = nodes[2].addr();
    let mut page = Browser::open(program, &format!("http://{addr}{PAGE}"), 1280);
    let rows = "document.querySelectorAll('#stores-body tbody tr').length";
    page.until(rows, &json!(3));
    page.until(REGIONS, &regions(addr));
    page.until(
        "document.getElementById('fresh-text').textContent",
        &json!("live"),
    );

    // Each way to look at the regions has its own colours.
    let by_leader = page.value(COLOUR);
    page.click("#map-mode label:has(input[value=ails])");
    page.until(
        "document.getElementById('map').dataset.mode",
        &json!("ails"),
    );
    assert_ne!(page.value(COLOUR), by_leader, "by health as by leader");
    page.click("#map-mode label:has(input[value=leader])");
    page.until(COLOUR, &by_leader);

    // What is split elsewhere appears.
    let before = regions(addr).as_u64().expect("a number");
    done(pd, "region split --at row-5");
    page.until(REGIONS, &json!(before + 1));

    // Steering, by the keyboard: the first region, its panel, a leader elsewhere.
    page.value("document.getElementById('map').focus()");
    page.press("Home");
    page.press("Enter");
    let of_peer = "#region tbody button";
    page.until(
        "document.querySelector('#region h3') !== null",
        &json!(true),
    );
    let title = page.value("document.querySelector('#region h3').textContent");
    let region = title.as_str().expect("a text").replace("Region ", "");
    let leader = || ctl_json(pd, &format!("region show {region}"));
    let leads = |shown: &Value| {
        let mut peers = shown["peers"].as_array().expect("a list").iter();
        peers
            .find(|peer| peer["leads"] == true)
            .map(|peer| peer["store"].clone())
    };
    let led = leads(&leader());
    page.click(of_peer);
    page.until("document.getElementById('confirm').open", &json!(true));
    page.press("Escape");
    page.until("document.getElementById('confirm').open", &json!(false));
    assert_eq!(leads(&leader()), led, "nobody has said yes");
    page.click(of_peer);
    page.until("document.getElementById('confirm').open", &json!(true));
    page.click("#confirm-yes");
    eventually("another leader", || (leads(&leader()) != led).then_some(()));

    // PD moves to another node, and nobody notices.
    let members = ctl_json(pd, "member list");
    let members = members.as_array().expect("rows").iter();
    let to = members
        .clone()
        .find(|row| row["leads"] != true)
        .expect("another");
    done(
        pd,
        &format!("member transfer-leader --to {} --wait", to["id"]),
    );
    let moved = format!("PD on store {} ", to["id"]);
    let shown = format!("document.getElementById('cluster').textContent.includes({moved:?})");
    page.until(&shown, &json!(true));
    page.until(
        "document.getElementById('fresh-text').textContent",
        &json!("live"),
    );
    assert_eq!(
        page.value("document.getElementById('trouble').hidden"),
        json!(true)
    );

    let (urls, errors) = page.said();
    let own = format!("http://{addr}/");
    for url in &urls {
        assert!(
            url.starts_with(&own) || url.starts_with("data:"),
            "it asks {url}"
        );
    }
    assert!(
        urls.iter().any(|url| url.contains("/flotilla/v1/heat")),
        "{urls:?}"
    );
    assert_eq!(errors, [""; 0]);
    drop(page);

    narrow(program, addr);
}

/// On a telephone nothing is wider than the screen.
fn narrow(program: &str, addr: &str) {
    let mut page = Browser::open(program, &format!("http://{addr}/"), 420);
    page.until(
        "document.querySelectorAll('#stores-body tbody tr').length",
        &json!(3),
    );
    let wide = page.value("document.documentElement.scrollWidth");
    assert!(wide.as_u64() <= Some(420), "{wide} wide");
}

#[test]
fn pages_of_other_sites_are_refused() {
    let dir = folder();
    let node = crate::node::Node::start(dir.path(), &[]);
    let addr = node.addr();
    let ask = |method: &str, path: &str, headers: &[&str]| {
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {addr}\r\n{headers}Connection: close\r\n\r\n"
        );
        wire::page(&wire::exchange(addr, request.as_bytes())).status
    };
    let (split, own) = ("/pd/api/v1/regions/split", format!("Origin: http://{addr}"));
    let foreign = "Origin: http://evil.example";
    assert_eq!(ask("POST", split, &[foreign]), 403);
    assert_eq!(
        ask("GET", "/pd/api/v1/stores", &["Sec-Fetch-Site: cross-site"]),
        403
    );
    // Its own page may, and is told what its request lacks.
    assert_eq!(ask("POST", split, &[own.as_str()]), 400);
    assert_eq!(ask("GET", PAGE, &[]), 200);
    assert_eq!(ask("GET", "/dashboard/app.js", &[]), 200);
    assert_eq!(ask("GET", "/dashboard/secret", &[]), 404);
    let page = wire::exchange(
        addr,
        format!("GET {PAGE} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes(),
    );
    let page = String::from_utf8_lossy(&page).to_lowercase();
    assert!(
        page.contains("content-security-policy: default-src 'none'"),
        "{page}"
    );
    // Not a form of any site.
    let form = "Content-Type: text/plain\r\nContent-Length: 2";
    let request =
        format!("POST {split} HTTP/1.1\r\nHost: {addr}\r\n{form}\r\nConnection: close\r\n\r\n{{}}");
    assert_eq!(
        wire::page(&wire::exchange(addr, request.as_bytes())).status,
        415
    );
    let client = Client::connect(&node);
    assert_eq!(regions(addr), json!(client.regions().len()));
}
