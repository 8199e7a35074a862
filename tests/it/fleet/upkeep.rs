//! `fleet maintain` beside what else goes on.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use super::{fleet, printed, scene::scene};
use crate::support::{Guard, need, until};

/// History is old by the clock of the database: that of the machine which cleans up may be wrong.
#[test]
fn a_clock_that_is_years_ahead_deletes_no_history() {
    need!("faketime");
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    scene.ship();
    let rows = || {
        let counts = ["fleet.ended", "fleet.leak", "fleet.leak_day", "pg_catalog.pg_inherits"];
        counts.map(|table| scene.database.rows(&format!("SELECT count(*) FROM {table}")))
    };
    let before = rows();
    let mut ahead = Command::new("faketime");
    ahead.args(["+5 years", env!("CARGO_BIN_EXE_procledger"), "fleet", "maintain", "--to"]);
    ahead.arg(scene.database.url());
    let done = printed(ahead);
    assert!(done.contains("dropped: 0; rows deleted: 0;"), "{done}");
    assert_eq!(rows(), before);
}

/// Both make the sums of a day anew: the later one waits.
#[test]
fn sums_are_recomputed_beside_a_shipper_that_makes_them() {
    let Some(scene) = scene() else { return };
    scene.ledger.leak(1);
    scene.ship();
    let mut shipper = scene.database.client();
    let mut shipment = shipper.transaction().expect("begun");
    let sums = "UPDATE fleet.stream SET seen_at = now();
         CREATE TEMPORARY TABLE sums ON COMMIT DROP AS SELECT * FROM fleet.leak_day;
         DELETE FROM fleet.leak_day; INSERT INTO fleet.leak_day SELECT * FROM sums";
    shipment.batch_execute(sums).expect("done");
    let mut maintain = fleet(&["maintain", "--to", &scene.database.url()]);
    let maintain = maintain.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut maintain = Guard(maintain.spawn().expect("it starts"));
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'",
        scene.database.name()
    );
    until("it waits", || scene.database.rows(&waiting) == "1" || !maintain.is_running());
    // A shipper that hangs holds its stream for longer than a partition is waited for.
    std::thread::sleep(Duration::from_secs(6));
    shipment.commit().expect("committed");
    let status = maintain.0.wait().expect("it ends");
    let mut error = String::new();
    let stderr = maintain.0.stderr.as_mut().expect("a pipe");
    std::io::Read::read_to_string(stderr, &mut error).expect("text");
    assert!(status.success(), "{error}");
    assert_eq!(scene.database.rows("SELECT sum(leaks) FROM fleet.leak_day"), "1");
}
