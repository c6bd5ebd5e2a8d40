//! The web page in headless Chromium, end to end (`tests/browser/drive.mjs`). Needs `chromium` (or the path in
//! MINIMIND_CHROMIUM) and `node` 18 or newer. MINIMIND_SHOTS=FOLDER keeps pictures of the page.

mod common;

use std::process::Command;

use common::served::Server;
use common::succeed;

common::needs::tests! {
    the_page_works_in_a_browser: [Chromium, Program("node")],
}

fn the_page_works_in_a_browser() {
    let chromium = common::needs::chromium();
    let server = Server::start(&["--context", "65536", "--max-new-tokens", "60000"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/drive.mjs");
    let url = format!("http://{}/", server.address);
    let output = succeed(Command::new("node").args([script, &chromium, &url]));
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(text.contains("all checks passed"), "{text}");
    assert!(text.lines().filter(|l| l.starts_with("ok ")).count() >= 25, "{text}");
    server.until("minimind_requests_running", 0.0);
}
