//! The mark of one series: what was read of it last, and what is added to that.
//! Owns what a step back of a counter and of a histogram is; of which series
//! there are marks is [`crate::hash_marks`]'.

use functional_scaffold_protocol::{
    cell::{CARRY, fields_of_series},
    family::Family,
    series::Histogram,
};

/// A step of a sum that is none, in stored units: half of what the carry cell
/// counts. A read may see a sum before its carry was taken out of it and the
/// carry after, or the other way round. Such a step is believed when it is
/// still there at the next read.
const TORN_SUM: i128 = 1 << 61;

/// The last value read of a series, and what is added to it.
pub(crate) trait Mark: Sized {
    type Value;
    fn new(value: &Self::Value) -> Self;
    /// What is read of a series that is gone.
    fn nothing(&self) -> Self::Value;
    /// Makes a value read the value to serve, and says whether it stepped back.
    fn hold(&mut self, value: &mut Self::Value, family: &Family) -> bool;
    /// What was served last.
    fn served(&self) -> Self::Value;
    /// What is added, if anything is.
    fn offset(&self) -> Option<&Self::Value>;
    /// Hands a value's cells to `take`, by their fields, but for a negative sum.
    fn cells(value: &Self::Value, labels: &str, family: &Family, take: impl FnMut(&str, u64));
    /// Takes what was served for what was read: from now on what is added comes
    /// with what is read, or is lost.
    fn fold(&mut self);
}

#[derive(Debug)]
pub(crate) struct CounterMark {
    last: i64,
    offset: i64,
}

impl Mark for CounterMark {
    type Value = i64;

    fn new(value: &i64) -> Self {
        Self {
            last: *value,
            offset: 0,
        }
    }

    fn nothing(&self) -> i64 {
        0
    }

    fn hold(&mut self, value: &mut i64, _family: &Family) -> bool {
        let lost = self.last.saturating_sub(*value).max(0);
        self.offset = self.offset.saturating_add(lost);
        self.last = *value;
        *value = value.saturating_add(self.offset);
        lost > 0
    }

    fn served(&self) -> i64 {
        self.last.saturating_add(self.offset)
    }

    fn offset(&self) -> Option<&i64> {
        (self.offset > 0).then_some(&self.offset)
    }

    fn cells(value: &i64, labels: &str, _family: &Family, mut take: impl FnMut(&str, u64)) {
        if let Ok(value) = u64::try_from(*value) {
            take(labels, value);
        }
    }

    fn fold(&mut self) {
        self.last = self.served();
        self.offset = 0;
    }
}

#[derive(Debug)]
pub(crate) struct HistogramMark {
    last: Histogram,
    // Of the few that ever stepped back.
    offset: Option<Box<Histogram>>,
    /// The last sum read was not believed.
    torn: bool,
}

impl Mark for HistogramMark {
    type Value = Histogram;

    fn new(value: &Histogram) -> Self {
        Self {
            last: value.clone(),
            offset: None,
            torn: false,
        }
    }

    fn nothing(&self) -> Histogram {
        Histogram {
            buckets: vec![0; self.last.buckets.len()].into(),
            sum: 0,
        }
    }

    fn hold(&mut self, value: &mut Histogram, family: &Family) -> bool {
        self.believe(value);
        // The sum of observations that may be negative is no counter.
        let sum_grows = family.bounds.first().is_some_and(|&bound| bound >= 0.0);
        let sum_back = sum_grows && value.sum < self.last.sum;
        let buckets = || self.last.buckets.iter().zip(&value.buckets);
        let back = sum_back || buckets().any(|(last, value)| value < last);
        if back {
            let lost = Histogram {
                buckets: buckets()
                    .map(|(last, value)| last.saturating_sub(*value))
                    .collect(),
                sum: if sum_back {
                    self.last.sum - value.sum
                } else {
                    0
                },
            };
            match &mut self.offset {
                Some(offset) => add(offset, &lost),
                none => *none = Some(Box::new(lost)),
            }
        }
        self.last.buckets.copy_from_slice(&value.buckets);
        self.last.sum = value.sum;
        if let Some(offset) = &self.offset {
            add(value, offset);
        }
        back
    }

    fn served(&self) -> Histogram {
        let mut served = self.last.clone();
        if let Some(offset) = &self.offset {
            add(&mut served, offset);
        }
        served
    }

    fn offset(&self) -> Option<&Histogram> {
        self.offset.as_deref()
    }

    fn cells(value: &Histogram, labels: &str, family: &Family, mut take: impl FnMut(&str, u64)) {
        let carry = u128::from(CARRY.unsigned_abs());
        let sum = u128::try_from(value.sum).ok();
        let part = |part: Option<u128>| part.and_then(|part| u64::try_from(part).ok());
        let sums = [
            part(sum.map(|sum| sum % carry)),
            part(sum.map(|sum| sum / carry)),
        ];
        let values = value.buckets.iter().copied().map(Some).chain(sums);
        for (field, value) in fields_of_series(family, labels).iter().zip(values) {
            if let Some(value) = value {
                take(field, value);
            }
        }
    }

    fn fold(&mut self) {
        if self.offset.is_some() {
            self.last = self.served();
            self.offset = None;
        }
    }
}

impl HistogramMark {
    /// Puts the last sum in the place of one that is not believed.
    fn believe(&mut self, value: &mut Histogram) {
        let step = value.sum.saturating_sub(self.last.sum);
        self.torn = step.saturating_abs() >= TORN_SUM && !self.torn;
        if self.torn {
            value.sum = self.last.sum;
        }
    }
}

fn add(to: &mut Histogram, other: &Histogram) {
    for (to, other) in to.buckets.iter_mut().zip(&other.buckets) {
        *to = to.saturating_add(*other);
    }
    to.sum = to.sum.saturating_add(other.sum);
}
