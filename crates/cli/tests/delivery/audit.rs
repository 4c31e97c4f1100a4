//! `homing audit` on sound traffic and on none.

use crate::support::Home;
use serde_json::json;

#[test]
fn an_audit_that_cannot_read_never_looks_clean() {
    let home = Home::new();
    home.run_with(["send", "--topic", &home.orders], b"1\n").expect(0, &[]);
    home.run(["run", "--until-drained", "--set", "audit.enabled=false"]).expect(0, &[]);
    home.run(["audit", "--recall"]).expect(2, &["nothing was audited yet"]);
    let away = ["audit", "--set", "kafka.bootstrap=127.0.0.1:1", "--set", "audit.request_timeout_ms=200"];
    home.run(away).expect(2, &["error"]);
    let report = home.run(["audit", "--json"]).expect(0, &[]).json();
    assert_eq!(report["totals"]["records"], json!(1));
}
