//! The marks of the series of one hash. Owns the walk that compares them with what
//! was read, and which of them are gone; what is made of a step back is
//! [`crate::mark`]'s, of which hashes there are marks [`crate::marks`]'.

use std::{cmp::Ordering, collections::HashSet};

use functional_scaffold_protocol::{
    family::Family,
    series::{FamilySeries, Series},
};

use crate::mark::{CounterMark, HistogramMark, Mark};

/// The marks of one hash.
#[derive(Debug)]
pub(crate) struct HashMarks {
    pub(crate) family: Family,
    marks: SeriesMarks,
}

#[derive(Debug)]
enum SeriesMarks {
    Counters(Held<CounterMark>),
    Histograms(Held<HistogramMark>),
}

/// Marks by label set, in order.
type Held<M> = Vec<(Box<str>, M)>;

/// What stepped back in one hash.
#[derive(Debug, Default)]
pub(crate) struct Back {
    pub(crate) series: u64,
    pub(crate) example: Option<String>,
}

impl HashMarks {
    /// No marks yet, for series of this form.
    pub(crate) fn new(family: &Family, series: &Series) -> Self {
        Self {
            family: family.clone(),
            marks: match series {
                Series::Values(_) => SeriesMarks::Counters(Vec::new()),
                Series::Histograms(_) => SeriesMarks::Histograms(Vec::new()),
            },
        }
    }

    /// Raises what was read to what was served before, with the series that are
    /// gone put back.
    pub(crate) fn hold(&mut self, layout: &mut FamilySeries) -> Back {
        let FamilySeries { family, series } = layout;
        if !self.family.same_layout(family) {
            // Registered anew by hand: its cells mean something else now.
            *self = Self::new(family, series);
        }
        match (&mut self.marks, series) {
            (SeriesMarks::Counters(marks), Series::Values(values)) => {
                hold_all(marks, values, family)
            }
            (SeriesMarks::Histograms(marks), Series::Histograms(values)) => {
                hold_all(marks, values, family)
            }
            // One kind has one form of series, and the layout is the same.
            (SeriesMarks::Counters(_), Series::Histograms(_))
            | (SeriesMarks::Histograms(_), Series::Values(_)) => Back::default(),
        }
    }

    /// Forgets the series with these label sets.
    pub(crate) fn forget(&mut self, gone: &HashSet<&str>) {
        match &mut self.marks {
            SeriesMarks::Counters(marks) => marks.retain(|(labels, _)| !gone.contains(&**labels)),
            SeriesMarks::Histograms(marks) => marks.retain(|(labels, _)| !gone.contains(&**labels)),
        }
    }

    /// Hands `take` what is added, by cells.
    pub(crate) fn offsets(&self, take: impl FnMut(&str, u64)) {
        match &self.marks {
            SeriesMarks::Counters(marks) => offsets_of(marks, &self.family, take),
            SeriesMarks::Histograms(marks) => offsets_of(marks, &self.family, take),
        }
    }

    /// Hands `take` what was served last, by cells.
    pub(crate) fn served(&self, take: impl FnMut(&str, u64)) {
        match &self.marks {
            SeriesMarks::Counters(marks) => served_of(marks, &self.family, take),
            SeriesMarks::Histograms(marks) => served_of(marks, &self.family, take),
        }
    }

    /// See [`Mark::fold`].
    pub(crate) fn fold(&mut self) {
        match &mut self.marks {
            SeriesMarks::Counters(marks) => marks.iter_mut().for_each(|(_, mark)| mark.fold()),
            SeriesMarks::Histograms(marks) => marks.iter_mut().for_each(|(_, mark)| mark.fold()),
        }
    }
}

fn offsets_of<M: Mark>(marks: &Held<M>, family: &Family, mut take: impl FnMut(&str, u64)) {
    for (labels, mark) in marks {
        if let Some(offset) = mark.offset() {
            M::cells(offset, labels, family, &mut take);
        }
    }
}

fn served_of<M: Mark>(marks: &Held<M>, family: &Family, mut take: impl FnMut(&str, u64)) {
    for (labels, mark) in marks {
        M::cells(&mark.served(), labels, family, &mut take);
    }
}

impl Back {
    fn add(&mut self, labels: &str) {
        self.series += 1;
        if self.example.is_none() {
            self.example = Some(labels.to_owned());
        }
    }
}

/// Holds every series of a hash. Both lists are in order of label sets, so one
/// walk compares them, and a read without new or lost series moves nothing.
fn hold_all<M: Mark>(
    marks: &mut Held<M>,
    values: &mut Vec<(Box<str>, M::Value)>,
    family: &Family,
) -> Back {
    let mut back = Back::default();
    let mut gone = Vec::new();
    let mut new = Vec::new();
    let mut held = marks.iter_mut().peekable();
    for (labels, value) in values.iter_mut() {
        let mark = loop {
            let Some(next) = held.peek() else { break None };
            match next.0.cmp(labels) {
                Ordering::Less => gone.extend(held.next()),
                Ordering::Equal => break held.next(),
                Ordering::Greater => break None,
            }
        };
        match mark {
            Some((_, mark)) => {
                if mark.hold(value, family) {
                    back.add(labels);
                }
            }
            None => new.push((labels.clone(), M::new(value))),
        }
    }
    gone.extend(held);
    if !gone.is_empty() {
        for (labels, mark) in gone {
            let mut value = mark.nothing();
            if mark.hold(&mut value, family) {
                back.add(labels);
            }
            values.push((labels.clone(), value));
        }
        values.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    }
    if !new.is_empty() {
        marks.append(&mut new);
        marks.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    }
    back
}
