//! What the launches of a census add up to: launches and ranges brought together, and those that are alike made one row. Pure.

use std::collections::BTreeMap;

use super::through::Chunk;
use crate::{
    counter::session::Counts,
    evidence::record::{Kernel, Kind},
    inject::{
        launch::{Launch, What},
        roster::VARIANTS,
    },
};

/// What a census's launches add up to.
#[derive(Default)]
pub(super) struct Told {
    pub(super) launches: u64,
    pub(super) ranges: u64,
    pub(super) counts: BTreeMap<String, u128>,
    pub(super) sparse: BTreeMap<String, u128>,
    pub(super) cycles: Option<u64>,
    pub(super) kernels: Vec<Kernel>,
    /// The launches in their order: key and row. Empty where names were dropped.
    pub(super) order: Vec<(u64, u32)>,
    /// What one launch of each row executed.
    pub(super) executed: Vec<BTreeMap<String, u128>>,
    pub(super) why: String,
}

impl Told {
    /// `graphs`: those that the process launched in earlier censuses, in the order in which they were first seen. A graph keeps its number from one census to the next.
    pub(super) fn of(chunks: Vec<(Chunk, Vec<Counts>)>, graphs: &mut Vec<usize>) -> Self {
        let mut told = Self { cycles: Some(0), ..Self::default() };
        let all = || chunks.iter().flat_map(|(_, counts)| counts);
        // A path that one range did not count is not counted at all.
        let invalid: Vec<String> = all().flat_map(|c| c.invalid.iter().cloned()).collect();
        for counts in all() {
            told.ranges += 1;
            told.cycles = told.cycles.zip(counts.cycles).map(|(a, b)| a + b);
            for (path, flop) in counts.paths.iter().filter(|(p, _)| !invalid.contains(p)) {
                *told.counts.entry(path.clone()).or_insert(0) += flop;
            }
            for (path, flop) in &counts.sparse {
                *told.sparse.entry(path.clone()).or_insert(0) += flop;
            }
        }
        let mut names = Names { graphs, kernels: Vec::new(), executed: Vec::new(), streams: Vec::new() };
        for (chunk, counts) in chunks {
            told.launches += chunk.launches.len() as u64;
            match meet(&chunk.launches, counts) {
                Ok(met) => {
                    for (launch, counts) in met {
                        told.order.push((launch.place.key(), names.add(Some(launch), counts, &invalid)));
                    }
                }
                Err((why, counts)) => {
                    told.why = why;
                    counts.into_iter().for_each(|c| _ = names.add(None, c, &invalid));
                }
            }
        }
        if !told.why.is_empty() {
            told.order.clear();
        }
        (told.kernels, told.executed) = (names.kernels, names.executed);
        told
    }
}

/// A launch, and what it counted.
type Met<'a> = (&'a Launch, Counts);

/// Brings launches and ranges together. A graph may have made a range for each of its kernels.
fn meet(launches: &[Launch], mut ranges: Vec<Counts>) -> Result<Vec<Met<'_>>, (String, Vec<Counts>)> {
    if launches.len() == ranges.len() {
        return Ok(launches.iter().zip(ranges).collect());
    }
    let graphs = || launches.iter().filter(|l| l.what == What::Graph);
    let (count, others) = (graphs().count(), launches.len() - graphs().count());
    let one = graphs().all(|g| Some(g.place.handle) == graphs().next().map(|f| f.place.handle));
    let nodes = ranges.len().saturating_sub(others);
    if count == 0 || !one || nodes < count || nodes % count != 0 {
        return Err((format!("names were dropped: {} launches made {} ranges", launches.len(), ranges.len()), ranges));
    }
    let mut rest = ranges.drain(..);
    let met = launches.iter().map(|launch| {
        let mut sum = Counts::default();
        for (i, counts) in rest.by_ref().take(if launch.what == What::Graph { nodes / count } else { 1 }).enumerate() {
            let add = |a: Option<u64>, b: Option<u64>| if i == 0 { b } else { a.zip(b).map(|(a, b)| a + b) };
            (sum.cycles, sum.ns) = (add(sum.cycles, counts.cycles), add(sum.ns, counts.ns));
            sum.invalid.extend(counts.invalid);
            for (path, flop) in counts.paths {
                *sum.paths.entry(path).or_insert(0) += flop;
            }
        }
        (launch, sum)
    });
    Ok(met.collect())
}

/// Launches that are alike, together.
struct Names<'a> {
    kernels: Vec<Kernel>,
    /// What one launch of each executed.
    executed: Vec<BTreeMap<String, u128>>,
    streams: Vec<usize>,
    graphs: &'a mut Vec<usize>,
}

fn number(of: usize, list: &mut Vec<usize>) -> usize {
    list.iter().position(|l| *l == of).unwrap_or_else(|| {
        list.push(of);
        list.len() - 1
    })
}

impl Names<'_> {
    /// Adds a launch; the number of its row.
    fn add(&mut self, launch: Option<&Launch>, counts: Counts, invalid: &[String]) -> u32 {
        let mut row = Kernel { kind: Kind::Unnamed, ..Kernel::default() };
        if let Some(launch) = launch {
            (row.grid, row.block) = (launch.place.grid, launch.place.block);
            row.stream = u32::try_from(number(launch.place.stream, &mut self.streams)).unwrap_or(u32::MAX);
            match &launch.what {
                What::Kernel(name) => (row.kind, row.name) = (Kind::Kernel, name.clone()),
                What::Graph => (row.kind, row.name) = (Kind::Graph, number(launch.place.handle, self.graphs).to_string()),
                What::Nameless => {}
            }
        }
        let executed: BTreeMap<String, u128> = counts.paths.into_iter().filter(|(p, n)| *n > 0 && !invalid.contains(p)).collect();
        let alike: Vec<usize> = (0..self.kernels.len())
            .filter(|i| {
                let k = &self.kernels[*i];
                (k.kind, &k.name, k.grid, k.block, k.stream) == (row.kind, &row.name, row.grid, row.block, row.stream)
            })
            .collect();
        let same = alike.iter().find(|i| self.executed[**i] == executed).copied();
        let at = match same.or_else(|| alike.last().copied().filter(|_| alike.len() >= VARIANTS)) {
            Some(at) => at,
            None => {
                self.kernels.push(row);
                self.executed.push(executed.clone());
                self.kernels.len() - 1
            }
        };
        let kernel = &mut self.kernels[at];
        kernel.launches += 1;
        kernel.durations_ns.extend(counts.ns);
        for (path, flop) in executed {
            *kernel.counts.entry(path).or_insert(0) += flop;
        }
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::roster::Place;

    fn launch(what: What, handle: usize) -> Launch {
        Launch { what, place: Place { handle, grid: [1; 3], block: [1; 3], stream: 0 } }
    }

    fn kernel() -> Launch {
        launch(What::Kernel("k".to_owned()), 1)
    }

    fn ranges(flop: &[u128]) -> Vec<Counts> {
        flop.iter().map(|n| Counts { paths: [("p".to_owned(), *n)].into(), ns: Some(5), cycles: Some(9), ..Counts::default() }).collect()
    }

    fn met(launches: &[Launch], flop: &[u128]) -> Result<Vec<u128>, usize> {
        meet(launches, ranges(flop)).map(|m| m.iter().map(|(_, c)| c.paths["p"]).collect()).map_err(|(_, ranges)| ranges.len())
    }

    #[test]
    fn launches_and_ranges_meet_one_to_one() {
        assert_eq!(met(&[kernel(), kernel()], &[3, 4]), Ok(vec![3, 4]));
        assert_eq!(met(&[launch(What::Graph, 7), kernel()], &[3, 4]), Ok(vec![3, 4]));
        assert_eq!(met(&[], &[]), Ok(vec![]));
    }

    /// Where each kernel of a graph makes a range, the graph has their sum.
    #[test]
    fn the_kernels_of_a_graph_are_added_up() {
        let launches = [kernel(), launch(What::Graph, 7), kernel(), launch(What::Graph, 7)];
        assert_eq!(met(&launches, &[1, 10, 20, 30, 2, 11, 21, 31]), Ok(vec![1, 60, 2, 63]));
        let (_, counts) = &meet(&launches, ranges(&[1, 10, 20, 30, 2, 11, 21, 31])).unwrap()[1];
        assert_eq!((counts.ns, counts.cycles), (Some(15), Some(27)));
    }

    /// What cannot be told apart keeps its operations and loses its names.
    #[test]
    fn what_does_not_meet_is_not_guessed() {
        assert_eq!(met(&[kernel(), kernel()], &[1, 2, 3]), Err(3));
        assert_eq!(met(&[kernel(), kernel()], &[1]), Err(1));
        assert_eq!(met(&[launch(What::Graph, 7), launch(What::Graph, 8)], &[1, 2, 3, 4]), Err(4));
        assert_eq!(met(&[launch(What::Graph, 7), launch(What::Graph, 7)], &[1, 2, 3]), Err(3));
    }
}
