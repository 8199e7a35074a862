//! Copies of a ledger that are shipped beside the original, and the model: any sequence of work,
//! restores, kills and copies.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use procledger::fleet::{Address, ShipOptions, Shipper};
use proptest::prelude::*;

use super::{
    comparison::{Ledger, fleet_equals_ledger, init, ship},
    fleet, printed,
    scene::{Scene, copy, scene},
    server::{Database, database},
};
use crate::support::{Place, long, need, root, sampled, sqlite3};

pub(super) fn shipper(database: &Database, ledger: &Path) -> Shipper {
    shipper_to(&database.url(), ledger)
}

pub(super) fn shipper_to(url: &str, ledger: &Path) -> Shipper {
    let address = Address::parse(url).expect("valid");
    let mut options = ShipOptions::new("web-1");
    options.interval = Duration::from_millis(100);
    Shipper::open(ledger, None, address, options).expect("opens")
}

/// A copy of the ledger, with its shipment.
fn copied(scene: &Scene) -> (PathBuf, Ledger) {
    let path = scene.place.path().join("copy.db");
    copy(&scene.path(), &path);
    let ledger = Ledger::open(&path);
    (path, ledger)
}

fn both_are_there(scene: &Scene, copy: &Path) {
    fleet_equals_ledger(&scene.database, &scene.path());
    fleet_equals_ledger(&scene.database, copy);
    assert_eq!(scene.database.rows("SELECT count(*) FROM fleet.stream"), "2");
    let forked =
        "SELECT count(*) FROM fleet.stream AS s JOIN fleet.stream AS o ON o.ledger = s.forked_from";
    assert_eq!(scene.database.rows(forked), "1");
    assert_eq!(scene.database.rows("SELECT sum(gap) FROM fleet.stream"), "0");
}

/// Copies the ledger, and ships both in turn.
fn copied_and_both_go_on(scene: &Scene) {
    let (path, ledger) = copied(scene);
    let [mut first, mut second] = [&scene.path(), &path].map(|path| shipper(&scene.database, path));
    for _ in 0..3 {
        scene.ledger.work();
        first.ship().expect("shipped");
        ledger.work();
        second.ship().expect("shipped");
    }
    both_are_there(scene, &path);
}

/// As after a snapshot of a machine's memory: both shippers go on from the same batch.
#[test]
fn a_copy_in_the_same_boot_gets_a_stream_of_its_own() {
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    let mut first = shipper(&scene.database, &scene.path());
    first.ship().expect("shipped");
    let (path, ledger) = copied(&scene);
    let mut second = shipper(&scene.database, &path);
    for _ in 0..3 {
        ledger.work();
        second.ship().expect("shipped");
        scene.ledger.work();
        first.ship().expect("shipped");
    }
    both_are_there(&scene, &path);
    // What both had before the copy is in the fleet once.
    assert_eq!(scene.database.rows("SELECT count(*) FROM fleet.ended WHERE id = 1"), "1");
}

#[test]
fn a_copy_that_was_made_before_the_mark_was_recorded_gets_a_stream_of_its_own() {
    let Some(scene) = scene() else { return };
    scene.ship();
    let before = sqlite3(&scene.path(), "SELECT mark, process, leak FROM shipment");
    let [mark, process, leak] = before.split('|').collect::<Vec<_>>()[..] else {
        panic!("{before}")
    };
    scene.ledger.work();
    scene.ship();
    scene
        .ledger
        .sql(&format!("UPDATE shipment SET mark = '{mark}', process = {process}, leak = {leak}"));
    copied_and_both_go_on(&scene);
}

#[test]
fn a_copy_that_was_made_before_the_first_batch_gets_a_stream_of_its_own() {
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    copied_and_both_go_on(&scene);
}

/// What was recorded between the last batch and the copy looks like what the copy has recorded by
/// itself.
#[test]
fn rows_that_a_copy_shares_with_its_original_are_counted() {
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    let mut first = shipper(&scene.database, &scene.path());
    first.ship().expect("shipped");
    // Five processes, of which three have ended, and three leaks.
    scene.ledger.work();
    let (path, ledger) = copied(&scene);
    let mut second = shipper(&scene.database, &path);
    for _ in 0..3 {
        ledger.work();
        // Leaks that happen to be found in the same millisecond are of another age.
        ledger.sql("UPDATE leak SET age_ms = 77 WHERE id > 6");
        second.ship().expect("shipped");
        scene.ledger.work();
        first.ship().expect("shipped");
    }
    both_are_there(&scene, &path);
    // By hand: the first one got a stream of its own, and its rows above the floor are looked for
    // in the other ledger.
    let both = rusqlite::Connection::open(scene.path()).expect("opens");
    both.execute("ATTACH ?1 AS other", [path.to_str()]).expect("attached");
    let count = |sql: &str| both.query_one(sql, [], |row| row.get::<_, i64>(0)).expect("a number");
    let processes = count(
        "SELECT count(*) FROM main.process WHERE id > (SELECT process_floor FROM main.ledger)
           AND token IN (SELECT token FROM other.process)",
    );
    let leaks = count(
        "SELECT count(*) FROM main.leak AS l JOIN other.leak AS o USING (id, process, found_at, age_ms)
         WHERE l.id > (SELECT leak_floor FROM main.ledger)",
    );
    assert_eq!((processes, leaks), (5, 3));
    let said = |words: &[&str]| {
        let mut command = fleet(words);
        command.env("PROCLEDGER_FLEET", scene.database.url());
        printed(command)
    };
    let hosts = said(&["hosts"]);
    assert!(hosts.contains("copy of web-1; rows that are in both: 8"), "{hosts}");
    let report = said(&["report", "--by", "day"]);
    let line = "Lost: rows of a copy that its original has as well, counted twice: 8 (web-1: 8).\n";
    assert!(report.ends_with(line), "{report}");
}

/// Ships in a mount namespace where the machine seems to have been restarted.
fn ship_in_another_boot(scene: &Scene, ledger: &Path, boot: &Path) -> Output {
    let mut unshare = Command::new("unshare");
    let script = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && shift && exec \"$@\"";
    unshare.args(["--mount", "sh", "-c", script, "sh"]).arg(boot);
    unshare.arg(env!("CARGO_BIN_EXE_procledger")).arg("--db").arg(ledger);
    unshare.args(["ship", "--once", "--interval", "200ms", "--to", &scene.database.url()]);
    unshare.output().expect("unshare runs")
}

#[test]
fn a_copy_in_another_boot_waits_to_see_whether_the_original_continues() {
    need!("unshare", "mount");
    if !root() {
        return;
    }
    let Some(scene) = scene() else { return };
    scene.ledger.work();
    scene.ship();
    let (path, ledger) = copied(&scene);
    scene.ledger.work();
    scene.ship();
    let boot = scene.place.path().join("boot_id");
    std::fs::write(&boot, format!("{}\n", uuid::Uuid::new_v4())).expect("written");
    let done = AtomicBool::new(false);
    let (database, original) = (&scene.database, scene.path());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                ship(database, &original);
            }
        });
        ledger.work();
        let copied = ship_in_another_boot(&scene, &path, &boot);
        done.store(true, Ordering::SeqCst);
        let error = String::from_utf8_lossy(&copied.stderr);
        assert!(copied.status.success() && error.contains("a ledger of its own"), "{error}");
        assert_eq!(error.matches("nothing is shipped until it is known").count(), 1, "{error}");
    });
    both_are_there(&scene, &path);
    // A restarted machine with a ledger from a backup, which nothing else ships.
    let backup = scene.place.path().join("backup.db");
    copy(&scene.path(), &backup);
    scene.ledger.work();
    scene.ship();
    copy(&backup, &scene.path());
    let restored = ship_in_another_boot(&scene, &scene.path(), &boot);
    let error = String::from_utf8_lossy(&restored.stderr);
    assert!(restored.status.success() && error.contains("was restored"), "{error}");
    both_are_there(&scene, &path);
}

/// What happens to a ledger and its fleet.
#[derive(Clone, Copy, Debug)]
enum Step {
    Work,
    Ship,
    /// The shipper is killed, and another one is started.
    Kill,
    /// The answer to the last batch was lost, with the shipper.
    LoseAnswer,
    BackUpLedger,
    RestoreLedger,
    BackUpFleet,
    RestoreFleet,
    /// A copy is made, or the one that was made goes on.
    Copy,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Work),
        6 => Just(Step::Ship),
        2 => Just(Step::Kill),
        2 => Just(Step::LoseAnswer),
        1 => Just(Step::BackUpLedger),
        1 => Just(Step::RestoreLedger),
        1 => Just(Step::BackUpFleet),
        1 => Just(Step::RestoreFleet),
        1 => Just(Step::Copy),
    ];
    proptest::collection::vec(step, 1..30)
}

struct Model {
    place: Place,
    database: Database,
    ledger: Ledger,
    shipper: Option<Shipper>,
    /// The shipment before the last batch.
    before: Option<String>,
    fleet: Option<String>,
    copy: Option<(Ledger, Shipper)>,
}

impl Model {
    fn path(&self) -> PathBuf {
        self.place.ledger()
    }

    fn ship(&mut self) {
        let path = self.path();
        let (database, shipment) = (&self.database, "SELECT mark, process, leak FROM shipment");
        self.before = Some(sqlite3(&path, shipment)).filter(|row| !row.is_empty());
        let shipper = self.shipper.get_or_insert_with(|| shipper(database, &path));
        // A database that was replaced ends the statements that were prepared.
        if shipper.ship().is_err() {
            shipper.ship().expect("shipped");
        }
    }

    fn take(&mut self, step: Step) {
        let [backup, copied] = ["backup.db", "copy.db"].map(|name| self.place.path().join(name));
        match step {
            Step::Work => self.ledger.work(),
            Step::Ship => self.ship(),
            Step::Kill => self.shipper = None,
            Step::LoseAnswer => {
                self.shipper = None;
                let Some(before) = self.before.take() else { return };
                let [mark, process, leak] = before.split('|').collect::<Vec<_>>()[..] else {
                    panic!("{before}")
                };
                self.ledger.sql(&format!(
                    "UPDATE shipment SET mark = '{mark}', process = {process}, leak = {leak}"
                ));
            }
            Step::BackUpLedger => copy(&self.path(), &backup),
            Step::RestoreLedger if backup.exists() => {
                copy(&backup, &self.path());
                self.before = None;
            }
            Step::BackUpFleet => self.fleet = Some(self.database.dump()),
            Step::RestoreFleet => {
                if let Some(fleet) = &self.fleet {
                    self.database.restore(fleet);
                }
            }
            Step::Copy => {
                if self.copy.is_none() {
                    copy(&self.path(), &copied);
                    self.copy = Some((Ledger::open(&copied), shipper(&self.database, &copied)));
                }
                let (ledger, shipper) = self.copy.as_mut().expect("it was made");
                ledger.work();
                if shipper.ship().is_err() {
                    shipper.ship().expect("shipped");
                }
            }
            Step::RestoreLedger => {}
        }
    }
}

fn play(steps: &[Step]) {
    let Some(database) = database() else { return };
    init(&database);
    let place = Place::new();
    let ledger = Ledger::create(&place.ledger());
    let (shipper, before, fleet, copy) = (None, None, None, None);
    let mut model = Model { place, database, ledger, shipper, before, fleet, copy };
    for step in steps {
        model.take(*step);
    }
    // Whatever has happened: both are shipped once more, and then the fleet has all of both.
    for _ in 0..2 {
        model.ledger.work();
        model.take(Step::Ship);
        if model.copy.is_some() {
            model.take(Step::Copy);
        }
    }
    model.take(Step::Ship);
    fleet_equals_ledger(&model.database, &model.path());
    if model.copy.is_some() {
        fleet_equals_ledger(&model.database, &model.place.path().join("copy.db"));
    }
    assert_eq!(model.database.rows("SELECT coalesce(sum(gap), 0) FROM fleet.stream"), "0");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if long() { 10_000 } else { sampled(4, 12) },
        failure_persistence: None,
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    })]

    #[test]
    fn after_any_sequence_of_events_the_fleet_matches_its_ledgers(steps in steps()) {
        play(&steps);
    }
}
