//! What goes into the evidence, and in which order.

use std::path::{Path, PathBuf};

use super::{Meter, copies::library, start};
use crate::{
    evidence::record::{Fault, Library, Record},
    inject::{api, device::Metered},
};

impl Meter {
    pub(super) fn begun(&mut self) -> bool {
        self.journal.with(|journal| journal.begun()).unwrap_or(true)
    }

    pub(super) fn add(&mut self, record: Record) {
        self.journal.with(|journal| journal.add(record));
    }

    /// Adds what was not metered. It may be the first thing that is said.
    pub(super) fn add_fault(&mut self, fault: Fault) {
        if !self.begun() {
            self.introduce();
        }
        self.add(Record::Fault(fault));
    }

    /// What is said once, before the first device.
    pub(super) fn introduce(&mut self) {
        self.add(Record::Library(Library {
            name: "libcuda".to_owned(),
            path: String::new(),
            version: self.driver.version().to_string(),
            found: "already-loaded".to_owned(),
        }));
        if let Some(late) = start::late() {
            self.journal.with(|journal| journal.add_told(late));
        }
        if self.search.is_none() {
            self.introduce_cupti();
        }
    }

    /// Which libcupti it is, or why there is none.
    pub(super) fn introduce_cupti(&mut self) {
        let cupti = match &self.cupti {
            Ok(found) => Record::Library(library(found)),
            Err(why) => {
                let kind = if why.contains("CUPTI API") { "old-cupti" } else { "no-cupti" };
                let (what, remedy) = why.split_once(": ").unwrap_or((why, ""));
                Record::Fault(Fault {
                    kind: kind.to_owned(),
                    device: None,
                    what: format!("operations are not counted: {what}"),
                    remedy: remedy.to_owned(),
                })
            }
        };
        self.add(cupti);
    }

    pub(super) fn folder(&mut self) -> Option<PathBuf> {
        self.journal.with(|journal| journal.folder().map(Path::to_owned)).flatten()
    }

    /// Brings what the devices have to say into the evidence. True if there was anything.
    pub(super) fn collect(&mut self) -> bool {
        let records: Vec<Record> = self.devices.iter_mut().flatten().flat_map(Metered::take_records).collect();
        let any = !records.is_empty();
        if any {
            self.keep(records);
        }
        any
    }

    /// Brings records of a device into the evidence, and that to the file system.
    pub(super) fn keep(&mut self, records: Vec<Record>) {
        let all = self.with_what_was_said(records);
        self.journal.with(move |journal| journal.keep(all));
    }

    /// The same, by and by.
    pub(super) fn keep_soon(&mut self, records: Vec<Record>) {
        let all = self.with_what_was_said(records);
        self.journal.post(move |journal| journal.keep(all));
    }

    /// What the program has said since the last window, and then these records.
    pub(super) fn with_what_was_said(&mut self, records: Vec<Record>) -> Vec<Record> {
        let mut all: Vec<Record> = api::declared().into_iter().map(Record::Declare).collect();
        all.extend(api::texts());
        self.phases.extend(api::phases());
        all.extend(self.phases.drain(..).map(Record::Phase));
        all.extend(records);
        all
    }
}
