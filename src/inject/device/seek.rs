//! Looks at what a census could not see: begun when it saw a kernel that by its name makes products, and executed nothing on any path that was on.
//!
//! Each kernel asks for one look at most, at all groups that are kept off; one that uses no tensor cores is let alone after it. When the looks come, and how long they are, is
//! the schedule's to say ([`crate::window::look`]).

use std::collections::BTreeMap;

use super::{Metered, Mode, later};
use crate::{
    counter::category::Category,
    evidence::record::Kernel,
    window::{
        clock::monotonic_ns,
        look::{self, Need},
        schedule,
    },
};

impl Metered {
    /// Learns from a census of this group what is to be looked at. `counts`: what it counted, by path.
    pub(super) fn seek(&mut self, group: usize, kernels: &[Kernel], counts: &BTreeMap<String, u128>) {
        let (Some(schedule), Some(planned)) = (&mut self.schedule, &self.planned) else { return };
        let settled = &mut self.censuses.settled;
        for kernel in kernels.iter().filter(|k| look::executes(k)) {
            if !settled.contains(&kernel.name) && Category::multiplies(&kernel.name) {
                settled.push(kernel.name.clone());
            }
        }
        let known = settled.len();
        for (name, _) in look::unexplained(kernels) {
            if !settled.iter().any(|s| s == name) {
                settled.push(name.to_owned());
            }
        }
        if settled.len() == known {
            return;
        }
        let always = planned.plan.always();
        let work = counts.iter().filter(|(path, _)| always.contains(path.as_str())).fold(0u128, |sum, (_, n)| sum.saturating_add(*n));
        if schedule.seek(group, Need::of(work, kernels))
            && let Mode::Counting { until_ns, .. } = &mut self.mode
        {
            // The window that is open was given out before this was known, and may be a long one.
            let soon = later(monotonic_ns(), schedule::LOOK).min(*until_ns);
            schedule.cut(std::time::Duration::from_nanos(*until_ns - soon));
            *until_ns = soon;
        }
    }
}
