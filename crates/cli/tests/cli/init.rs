//! `homing init`.

use crate::support::Home;

#[test]
fn init_writes_a_short_file_and_an_outbox_and_keeps_what_is_there() {
    let home = Home::empty();
    home.run(["init"]).expect(0, &["wrote homing.toml", "created the outbox", "homing run"]);
    let written = std::fs::read_to_string(home.path().join("homing.toml")).unwrap();
    assert!(
        written.contains("name = \"orders\"") && written.contains("bootstrap = \"embedded\""),
        "{written}"
    );
    let set = |line: &&str| !line.is_empty() && !line.starts_with(['#', '[']);
    assert_eq!(written.lines().filter(set).count(), 3, "name, database and brokers: {written}");
    assert!(written.contains("homing init --print"), "{written}");
    assert_eq!(home.rows(), 0);

    let mine = format!("{written}[relay]\nlease_ms = 20000\n");
    home.file("homing.toml", &mine);
    home.run(["init"]).expect(0, &["kept", "homing.toml"]);
    assert_eq!(std::fs::read_to_string(home.path().join("homing.toml")).unwrap(), mine);
    let report = home.run(["init", "--json"]).expect(0, &[]).json();
    assert_eq!((&report["config_written"], &report["outbox_created"]), (&false.into(), &false.into()));
}

#[test]
fn every_line_of_the_long_file_works_with_its_hash_taken_away() {
    let home = Home::new();
    let printed = home.run(["init", "--print"]).expect(0, &[]).out;
    for section in ["[relay]", "[consumer]", "[audit]", "[broker]", "[kafka.client]"] {
        assert!(printed.contains(section), "{section}");
    }
    let is_off = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let off: Vec<_> = printed.lines().filter(|line| is_off(line)).collect();
    assert!(off.len() > 60, "{}", off.len());
    let on = |line: &str| if is_off(line) { format!("{}\n", &line[1..]) } else { format!("{line}\n") };
    home.file("homing.toml", printed.lines().map(on).collect::<String>());
    home.run(["status"]).expect(0, &[]);
}

#[test]
fn an_init_that_fails_leaves_no_file_that_the_next_one_would_keep() {
    let home = Home::empty();
    for (flag, value, said) in [
        ("--database", "nonsense", "is no database"),
        ("--database", "sqlite:nowhere/orders.db", "nowhere"),
        ("--bootstrap", "", "host:port"),
    ] {
        home.run(["init", flag, value]).expect(2, &[said]);
        assert!(std::fs::read_dir(home.path()).unwrap().next().is_none(), "{value:?} left something");
    }
    home.run(["init"]).expect(0, &["wrote homing.toml"]);
    home.run(["init", "--database", "sqlite:other.db"]).expect(0, &["kept", "are for a new file"]);
}

#[test]
fn init_can_live_in_the_applications_own_database() {
    let home = Home::empty();
    let database = rusqlite::Connection::open(home.path().join("shop.db")).unwrap();
    database.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY)").unwrap();
    home.run(["init", "--stream", "shop", "--database", "sqlite:shop.db"]).expect(0, &["stream shop"]);
    let tables = "SELECT COUNT(*) FROM sqlite_schema WHERE name IN ('orders', 'homing_outbox')";
    assert_eq!(database.query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
}

#[test]
fn init_sql_only_prints_and_the_printed_sql_makes_an_outbox() {
    let home = Home::empty();
    let printed = home.run(["init", "--sql"]).expect(0, &[]);
    assert!(std::fs::read_dir(home.path()).unwrap().next().is_none(), "nothing was written");
    let database = rusqlite::Connection::open(home.path().join("orders.db")).unwrap();
    database.execute_batch(&printed.out).unwrap();
    drop(database);
    home.run(["init"]).expect(0, &["kept the outbox"]);
}

#[test]
fn another_streams_outbox_is_not_taken_over() {
    let home = Home::new();
    home.run(["status", "--set", "stream.name=other"]).expect(2, &["orders", "other", "--set"]);
    home.run(["init", "--stream", "Orders"]).expect(2, &["--stream", "[a-z0-9]"]);
}
