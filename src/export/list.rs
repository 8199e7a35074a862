//! The exported list, kept in memory as the text of each entry, so that an update formats only the
//! entries that changed.

use std::collections::{BTreeMap, HashMap};

use crate::model::{ExportEntry, ExportRow, ExportUpdate, Millis, ProcessId};

/// The entries, the longest-running first.
#[derive(Debug, Default)]
pub(super) struct EntryList {
    texts: BTreeMap<(Millis, ProcessId), Box<str>>,
    started: HashMap<ProcessId, Millis>,
}

impl EntryList {
    pub(super) fn apply(&mut self, update: ExportUpdate) {
        match update {
            ExportUpdate::All(rows) => {
                *self = Self::default();
                for row in &rows {
                    self.insert(row);
                }
            }
            ExportUpdate::Rows(rows) => {
                for (id, row) in rows {
                    self.remove(id);
                    if let Some(row) = row {
                        self.insert(&row);
                    }
                }
            }
        }
    }

    fn insert(&mut self, row: &ExportRow) {
        self.started.insert(row.id, row.started);
        self.texts.insert((row.started, row.id), text_of(&row.entry));
    }

    fn remove(&mut self, id: ProcessId) {
        if let Some(started) = self.started.remove(&id) {
            self.texts.remove(&(started, id));
        }
    }

    /// Returns the text of the file, as [`to_json`](super::to_json) would.
    pub(super) fn to_json(&self) -> Vec<u8> {
        if self.texts.is_empty() {
            return b"[]\n".to_vec();
        }
        let length: usize = self.texts.values().map(|text| text.len() + 2).sum();
        let mut all = Vec::with_capacity(length + 4);
        let mut separator = "[";
        for text in self.texts.values() {
            all.extend_from_slice(separator.as_bytes());
            all.extend_from_slice(text.as_bytes());
            separator = ",";
        }
        all.extend_from_slice(b"\n]\n");
        all
    }
}

/// Returns the text of an entry as it is in the list, indented. JSON strings contain no newlines.
fn text_of(entry: &ExportEntry) -> Box<str> {
    let text = serde_json::to_string_pretty(entry).expect("strings and numbers serialize");
    format!("\n{text}").replace('\n', "\n  ").into()
}
