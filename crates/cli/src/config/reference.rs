//! Keeps the tables of docs/config.md as the settings are.

use super::keys::{KEYS, Kind, SECTIONS};
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- settings: written by a test from the list in the code -->\n";
const END: &str = "<!-- end of settings -->\n";

/// One table a section: key, default, and what it does with what goes wrong.
fn tables() -> String {
    let mut out = String::new();
    for (section, about) in SECTIONS {
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            out,
            "\n## [{section}]\n\n{about}\n\n| key | values | default | what it does |\n|---|---|---|---|\n"
        );
        for key in KEYS.iter().filter(|key| key.section() == *section) {
            let default = if key.default.is_empty() { "–".into() } else { format!("`{}`", key.default) };
            let risk = if key.risk.is_empty() { String::new() } else { format!(" *{}.*", key.risk) };
            let row =
                format!("| `{}` | {} | {default} | {}.{risk} |", key.leaf(), values(key.kind), key.what);
            let _ = writeln!(out, "{}", row.replace("host:port[,host:port]", "host:port,…"));
        }
    }
    out.push('\n');
    out
}

fn values(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".into(),
        Kind::Bool => "true, false".into(),
        Kind::Count(least) => format!("≥ {least}"),
        Kind::Millis(least) => format!("ms, ≥ {least}"),
        Kind::Ratio(low, high) => format!("{low} to {high}"),
        Kind::Choice(words) => words.join(", "),
    }
}

#[test]
fn the_page_of_settings_is_as_the_settings_are() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.md");
    let page = std::fs::read_to_string(&path).expect("docs/config.md is part of the repository");
    let (before, rest) = page.split_once(BEGIN).expect("the page marks where the settings begin");
    let (_, after) = rest.split_once(END).expect("the page marks where the settings end");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", tables());
    if std::env::var_os("HOMING_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).expect("docs/config.md can be written");
    }
    assert!(page == wanted, "docs/config.md is behind the settings; run this test with HOMING_WRITE_DOCS=1");
}
