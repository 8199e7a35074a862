//! The shipper: copies a ledger to the fleet's database, and keeps the copy up to date.
//!
//! The ledger is the spool: what the fleet has not acknowledged stays in it. A batch is read in one
//! read transaction, which is over before anything is sent, so a network that hangs holds no
//! snapshot of the ledger. Whatever is killed, each row is in the fleet once:
//!
//! | killed | then |
//! | --- | --- |
//! | while it reads, or before the commit | nothing has happened; the same rows are read again |
//! | after the commit, before the mark is in the ledger | the fleet's previous mark is that of the ledger: the shipper continues |
//! | after a stream was made or reset, before the mark is in the ledger | the mark is unknown: it is shipped again from the start |
//! | after a copy got a uuid of its own | the fleet does not know it: it is a new stream |
//!
//! A shipper migrates nothing and never runs in the process of a host.

mod batch_writer;
mod claim;
mod columns;
mod status;

pub use status::{ShipmentStatus, last_error, statuses};

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use postgres::{Client, Transaction, error::SqlState, types::ToSql};
use uuid::Uuid;

use self::{
    batch_writer::{Answer, Shipment, Statements, is_retryable},
    claim::{Claim, Facts, StreamRow, Watched},
    columns::Commands,
};
use super::{
    connection::{Address, begin, failed, lost_session},
    schema,
};
use crate::{
    error::{Error, Kind, Result},
    model::{Acknowledged, Millis, Position},
    store::{BATCH, READERS, Store, Upgrade},
    sys::current_pid_scope,
};

/// How often a transaction is repeated that was rolled back because of a conflict with another one.
const RETRIES: u32 = 5;
/// After this time a call returns: its caller may have been asked to stop.
const TURN: Duration = Duration::from_secs(2);
/// How many intervals a stream is watched that another machine has written.
const WATCHED_INTERVALS: u32 = 3;

/// How ledgers are shipped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShipOptions {
    /// Host name.
    pub host: String,
    /// Time between two calls of [`Shipper::ship`].
    pub interval: Duration,
    /// Whether the arguments of commands are shipped.
    pub commands: bool,
    /// Whether processes that have ended are shipped.
    pub history: bool,
    /// How long the ledger keeps history for a fleet that does not answer.
    pub give_up_after: Duration,
}

impl ShipOptions {
    /// Returns the defaults for a host: everything, every 30 seconds; a fleet is given up after
    /// 30 days.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            interval: Duration::from_secs(30),
            commands: true,
            history: true,
            give_up_after: Duration::from_hours(30 * 24),
        }
    }
}

/// The result of a call of [`Shipper::ship`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shipped {
    /// The number of batches.
    pub batches: u64,
    /// The number of rows.
    pub rows: u64,
    /// Whether the fleet still lacks rows when the time for one call is over: the next call is due
    /// at once.
    pub has_more: bool,
    /// Whether it is still undecided if a copy of this ledger is shipped elsewhere: nothing was
    /// shipped.
    pub is_undecided: bool,
}

/// The shipper of a ledger: one at a time.
#[derive(Debug)]
pub struct Shipper {
    store: Store,
    address: Address,
    options: ShipOptions,
    boot: Uuid,
    session: Option<Session>,
    state: Option<State>,
    /// When the last batch of this process was committed, if its mark was replaced by another
    /// process.
    swap_lost_after: Option<DateTime<Utc>>,
    /// A stream that another machine has written, as it was when it was first seen, and when that
    /// was.
    watched: Option<(StreamRow, Instant)>,
    lock: File,
}

/// A connection whose stream is claimed.
struct Session {
    client: Client,
    statements: Statements,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// What the fleet has, as of the last batch.
#[derive(Debug)]
struct State {
    fleet: Uuid,
    stream: i32,
    mark: Uuid,
    seen_at: DateTime<Utc>,
    position: Position,
    /// The number of the last pass whose day the fleet has.
    passes: i64,
}

impl Shipper {
    /// Opens a ledger, which must exist, as the user that owns it; `trust_folder` as of
    /// [`Builder::trust_folder`](crate::Builder::trust_folder).
    ///
    /// # Errors
    ///
    /// Busy while another shipper has the ledger; unsupported if the ledger is of an older schema,
    /// since a shipper migrates nothing; as [`Builder::open`](crate::Builder::open).
    pub fn open(
        ledger: impl AsRef<Path>,
        trust_folder: Option<&Path>,
        address: Address,
        options: ShipOptions,
    ) -> Result<Self> {
        let ledger = ledger.as_ref();
        // It creates nothing.
        Store::open_read_only(ledger)?.check_shippable()?;
        let store = Store::open_trusting(ledger, trust_folder, Upgrade::LeaveAsItIs, READERS)?;
        let Some(lock) = store.lock_for_shipping()? else {
            let message = format!(
                "another shipper has the ledger `{}`: find it with fuser(1) on its `-ship.lock`",
                store.path().display()
            );
            return Err(Error::new(Kind::Busy, message));
        };
        Ok(Self {
            store,
            address,
            options,
            boot: current_pid_scope()?.boot_id,
            session: None,
            state: None,
            swap_lost_after: None,
            watched: None,
            lock,
        })
    }

    /// Ships the rows that the fleet lacks; if there are none, an empty batch shows that the host
    /// is alive. After an error the next call begins by claiming the stream; nothing is lost, and
    /// nothing is counted twice.
    ///
    /// # Errors
    ///
    /// If the ledger or the database cannot be read or written.
    pub fn ship(&mut self) -> Result<Shipped> {
        let shipped = self.ship_all();
        if shipped.is_err() {
            self.session = None;
        }
        self.note(shipped.as_ref().err());
        shipped
    }

    /// Reports whether the path of the ledger still leads to the file that was opened.
    pub fn is_in_place(&self) -> bool {
        self.store.check_not_replaced().is_ok()
    }

    /// Writes the last error to the lock file, where `ship --status` finds it.
    fn note(&self, error: Option<&Error>) {
        let text = error.map_or_else(String::new, ToString::to_string);
        // A failure is ignored: the text is only shown.
        let _ = self.lock.set_len(0).and_then(|()| self.lock.write_all_at(text.as_bytes(), 0));
    }

    fn ship_all(&mut self) -> Result<Shipped> {
        let (mut shipped, started) = (Shipped::default(), Instant::now());
        loop {
            if self.session.is_none() || !self.ledger_continues()? {
                self.session = None;
                if !self.claim()? {
                    return Ok(Shipped { is_undecided: true, ..shipped });
                }
            }
            let began = Instant::now();
            let Some((rows, more)) = self.ship_batch()? else {
                self.session = None;
                continue;
            };
            shipped.batches += 1;
            shipped.rows += rows;
            shipped.has_more = more;
            if !more || started.elapsed() > TURN {
                return Ok(shipped);
            }
            // The database has other hosts to serve.
            thread::sleep(began.elapsed() / 2);
        }
    }

    /// Claims the stream of this ledger; `false` while it is to be found out whether another
    /// machine ships it.
    fn claim(&mut self) -> Result<bool> {
        let mut client = self.address.connect()?;
        let fleet = schema::shippable(&mut client)?;
        let mut is_taken = false;
        loop {
            let what = "claim the stream of the ledger";
            let claiming = |error| failed(what, error);
            let (uuid, start) = self.store.stream_start()?;
            let ledger = Uuid::try_parse(&uuid).map_err(|error| {
                Error::new(Kind::Other, "the ledger has no valid uuid").with_source(error)
            })?;
            let mut transaction = begin(&mut client, what)?;
            let row = StreamRow::lock(&mut transaction, ledger).map_err(claiming)?;
            let decision = self.decide(row.as_ref(), fleet)?;
            let (forked_from, last) = (self.store.forked_from()?, self.store.last_rows()?);
            let passes = self.store.passes_before(fleet)?;
            let state = match (decision, row) {
                (Claim::New, _) => {
                    let made = self.begin(&mut transaction, (ledger, forked_from, last), fleet, start);
                    match made {
                        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                            if std::mem::replace(&mut is_taken, true) {
                                return Err(self.belongs_to_another_login(ledger));
                            }
                            // Or a copy of the ledger has just been faster.
                            continue;
                        }
                        made => made,
                    }
                }
                (Claim::Continue, Some(row)) => self.go_on(&mut transaction, &row, (fleet, passes)),
                (Claim::AnswerLost, Some(row)) => {
                    // Before the next batch: if this process died after that, the fleet would be
                    // two batches ahead.
                    self.acknowledge(fleet, row.acknowledged(), None)?;
                    self.go_on(&mut transaction, &row, (fleet, passes))
                }
                (Claim::Restart, Some(row)) => {
                    tracing::warn!(
                        "the ledger or the fleet's database was restored, or the host was given up: the ledger is shipped again \
                         from the start, and nothing is counted twice"
                    );
                    self.begin_again(&mut transaction, &row, fleet, start)
                }
                (Claim::Fork, _) => {
                    transaction.rollback().map_err(claiming)?;
                    self.store.fork()?;
                    (self.swap_lost_after, self.watched) = (None, None);
                    tracing::warn!(
                        original = %ledger,
                        "a copy of this ledger is shipped elsewhere: this one is a ledger of its own from now on"
                    );
                    continue;
                }
                (_, row) => {
                    if self.watched.is_none() {
                        let wait = self.options.interval * WATCHED_INTERVALS;
                        tracing::warn!(
                            "another machine, or this one before it was restarted, has shipped the ledger further: nothing is \
                             shipped until it is known, in {wait:?}, whether that goes on elsewhere"
                        );
                    }
                    let row = row.map(|row| (row, Instant::now()));
                    self.watched = self.watched.take().or(row);
                    return Ok(false);
                }
            }
            .map_err(claiming)?;
            transaction.commit().map_err(claiming)?;
            let Position { process, leak, .. } = state.position;
            let acknowledged = Acknowledged { mark: state.mark, process, leak };
            let set_back = matches!(decision, Claim::New | Claim::Restart).then_some(Millis(0));
            self.acknowledge(fleet, acknowledged, set_back)?;
            (self.swap_lost_after, self.watched) = (None, None);
            self.state = Some(state);
            self.session = Some(Session { client, statements: Statements::default() });
            return Ok(true);
        }
    }

    /// Returns the error for a stream that exists, and that this login cannot see.
    fn belongs_to_another_login(&self, ledger: Uuid) -> Error {
        let statement = include_str!("../statements/move_stream.sql")
            .trim_end()
            .replace("{login}", &self.address.user().replace('\'', "''"))
            .replace("{ledger}", &ledger.to_string());
        let message = format!(
            "the stream of the ledger belongs to another login; if this host has a new one, as the owner: {statement}; a copy of \
             another machine's ledger has to be shipped by the login of that machine first"
        );
        Error::new(Kind::Denied, message)
    }

    fn acknowledge(
        &self,
        fleet: Uuid,
        acknowledged: Acknowledged,
        shipped_at: Option<Millis>,
    ) -> Result<()> {
        self.store.acknowledge(fleet, acknowledged, shipped_at, self.options.give_up_after)
    }

    fn decide(&self, row: Option<&StreamRow>, fleet: Uuid) -> Result<Claim> {
        let rows_agree = row.map_or(Ok(true), |row| self.store.has_last_rows(&row.watermarks()))?;
        let watched = match (&self.watched, row) {
            (Some((first, _)), Some(row)) if first.mark != row.mark => Watched::Moves,
            (Some((_, since)), _)
                if since.elapsed() >= self.options.interval * WATCHED_INTERVALS =>
            {
                Watched::Silent
            }
            _ => Watched::NotYet,
        };
        let facts = Facts {
            row,
            mine: self.store.acknowledged(fleet)?.map(|found| found.mark),
            rows_agree,
            boot: self.boot,
            swap_lost_after: self.swap_lost_after,
            watched,
        };
        Ok(facts.claim())
    }

    /// Creates the stream of a ledger that the fleet does not know.
    fn begin(
        &self,
        transaction: &mut Transaction<'_>,
        (ledger, forked_from, last): (Uuid, Option<Uuid>, (i64, i64)),
        fleet: Uuid,
        start: Position,
    ) -> Result<State, postgres::Error> {
        let mark = Uuid::new_v4();
        // Rows of a copy that may be in the stream of the original as well: `copied.sql` counts
        // them.
        let floor = forked_from.map(|_| start.process);
        let leak_floor = forked_from.map(|_| start.leak);
        let row = transaction.query_one(
            include_str!("../statements/ship_new.sql"),
            &[
                &ledger,
                &self.options.host,
                &self.boot,
                &mark,
                &start.process,
                &start.leak,
                &env!("CARGO_PKG_VERSION"),
                &forked_from,
                &floor,
                &leak_floor,
                &forked_from.map(|_| last.0),
                &forked_from.map(|_| last.1),
            ],
        )?;
        let (stream, seen_at) = (row.get(0), row.get(1));
        Ok(State { fleet, stream, mark, seen_at, position: start, passes: 0 })
    }

    /// Continues after the rows that the fleet has.
    fn go_on(
        &mut self,
        transaction: &mut Transaction<'_>,
        row: &StreamRow,
        (fleet, passes): (Uuid, i64),
    ) -> Result<State, postgres::Error> {
        let known =
            self.state.take().filter(|state| (state.fleet, state.mark) == (fleet, row.mark));
        let (position, passes) = match known {
            Some(state) => (state.position, state.passes),
            None => (row.add_open(transaction, &row.watermarks())?, passes),
        };
        let (stream, mark, seen_at) = (row.stream, row.mark, row.seen_at);
        Ok(State { fleet, stream, mark, seen_at, position, passes })
    }

    /// Resets the stream to its start. Missing rows are still counted from where they were counted
    /// before.
    fn begin_again(
        &self,
        transaction: &mut Transaction<'_>,
        row: &StreamRow,
        fleet: Uuid,
        start: Position,
    ) -> Result<State, postgres::Error> {
        let mark = Uuid::new_v4();
        let sql = include_str!("../statements/ship_restart.sql");
        let (process, leak) = (start.process, start.leak);
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&row.stream, &mark, &process, &leak, &self.boot];
        let seen_at = transaction.query_one(sql, &parameters)?.get(0);
        let (counted, counted_leaks) = (row.counted, row.counted_leaks);
        let start = Position { counted, counted_leaks, ..start };
        let position = row.add_open(transaction, &start)?;
        Ok(State { fleet, stream: row.stream, mark, seen_at, position, passes: 0 })
    }

    /// Reports whether the ledger is in the state in which this process left it, and was not
    /// replaced by a backup.
    fn ledger_continues(&self) -> Result<bool> {
        let Some(state) = &self.state else { return Ok(false) };
        let found = self.store.acknowledged(state.fleet)?;
        Ok(found.map(|found| found.mark) == Some(state.mark))
    }

    /// Ships a batch; returns its number of rows, and whether there are more. `None` if the mark
    /// was replaced by another process.
    fn ship_batch(&mut self) -> Result<Option<(u64, bool)>> {
        let (Some(session), Some(state)) = (&mut self.session, &mut self.state) else {
            return Ok(None);
        };
        let shipped_at = Millis::now();
        // 1. Read; no transaction of the ledger is open afterwards.
        let batch = self.store.next_batch(&state.position, BATCH)?;
        let (last_pass, passes) = self.store.pass_days(state.passes)?;
        let after = state.position.clone().after(&batch);
        let shipment = Shipment {
            stream: state.stream,
            before: state.mark,
            mark: Uuid::new_v4(),
            batch: &batch,
            after: &after,
            passes: &passes,
            host: &self.options.host,
            boot: self.boot,
            commands: Commands { whole: self.options.commands },
            history: self.options.history,
        };
        // 2. Ship.
        let mut retries = 0;
        let answer = loop {
            match batch_writer::ship(&mut session.client, &mut session.statements, &shipment) {
                Err(error) if is_retryable(&error) && retries < RETRIES => retries += 1,
                answer => break answer.map_err(|error| failed("ship a batch", error))?,
            }
        };
        let seen_at = match answer {
            Answer::Committed(seen_at) => seen_at,
            Answer::MarkReplaced => {
                self.swap_lost_after = Some(state.seen_at);
                return Ok(None);
            }
            Answer::OtherSession => return Err(lost_session("ship a batch")),
        };
        let mark = shipment.mark;
        if batch.gap + batch.leak_gap > 0 {
            tracing::warn!(
                processes = batch.gap,
                leaks = batch.leak_gap,
                "rows were pruned before they were shipped"
            );
        }
        if !batch.lost.is_empty() || !batch.lost_leaks.is_empty() {
            tracing::warn!(
                processes = batch.lost.len(),
                leaks = batch.lost_leaks.len(),
                "the ledger does not have rows any more that had not ended: the fleet counts them as lost"
            );
        }
        // 3. Acknowledge.
        let (process, leak) = (after.process, after.leak);
        (state.mark, state.seen_at, state.position, state.passes) =
            (mark, seen_at, after, last_pass);
        let acknowledged = Acknowledged { mark, process, leak };
        let fleet = state.fleet;
        self.acknowledge(fleet, acknowledged, (!batch.more).then_some(shipped_at))?;
        Ok(Some((batch.rows() as u64, batch.more)))
    }
}
