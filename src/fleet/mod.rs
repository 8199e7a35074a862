//! The fleet: ledgers of many machines, read by one receiver or shipped to one PostgreSQL database.
//!
//! Each ledger stays where it is and remains authoritative for its machine: a PID is meaningful
//! only there, and nothing that a receiver has can cause a signal. A [`Stream`] reads a ledger
//! batch by batch; it writes nothing, migrates nothing, and holds no snapshot between two batches.
//! An [`Address`] names the database, and [`Init`] creates its schema.
//!
//! ```
//! use procledger::{Job, Tracker, fleet::Stream};
//!
//! # fn main() -> procledger::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("ledger.db");
//! let tracker = Tracker::builder(&path).open()?;
//! tracker.spawn(Job::new("task-42", "true"))?.wait()?;
//!
//! let stream = Stream::open(&path)?;
//! let batch = stream.next(stream.start())?;
//! assert_eq!(batch.rows(), 1);
//! let position = stream.start().clone().after(&batch); // once the receiver has it
//! assert!(stream.next(&position)?.is_empty());
//! # Ok(()) }
//! ```

mod connection;
mod enroll;
mod leak_sums;
mod maintenance;
mod reader;
mod schema;
mod secret;
mod ship;
mod stream;
mod tls;

pub use crate::model::{
    Batch, FleetHost, FleetLeak, FleetProcess, LostRow, OpenProcess, Position, StreamLeak,
    StreamProcess,
};
pub use connection::Address;
pub use enroll::{Enrollment, enroll};
pub use maintenance::{Forgotten, Maintenance, forget, maintain};
pub use reader::{Fleet, OTHERS};
pub use schema::{Engine, Init, Meta};
pub use ship::{ShipOptions, ShipmentStatus, Shipped, Shipper, last_error, statuses};
pub use stream::Stream;
