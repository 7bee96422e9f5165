//! Series in order of their label sets. Owns only the speed of it: the label
//! sets of one family begin alike, so that comparing them whole reads most of
//! their bytes, from all over the memory, for each of the many comparisons.

/// Bytes after the common beginning that are compared first.
const KEY_BYTES: usize = 16;

/// Sorts by label set. Those with the same one stay in the order they came in.
pub(crate) fn sort_by_labels<T>(series: &mut Vec<(Box<str>, T)>) {
    let common = common_beginning(series);
    let mut order: Vec<(u128, usize)> = series
        .iter()
        .enumerate()
        .map(|(position, (labels, _))| (key(&labels.as_bytes()[common..]), position))
        .collect();
    let whole = |position: usize| &series[position].0;
    order.sort_unstable_by(|&(left, at), &(right, other)| {
        left.cmp(&right)
            .then_with(|| whole(at).cmp(whole(other)))
            .then(at.cmp(&other))
    });
    let mut taken: Vec<Option<(Box<str>, T)>> = series.drain(..).map(Some).collect();
    // Every position is there once.
    series.extend(order.iter().filter_map(|&(_, at)| taken[at].take()));
}

/// How many bytes all label sets begin with.
fn common_beginning<T>(series: &[(Box<str>, T)]) -> usize {
    let Some(((first, _), rest)) = series.split_first() else {
        return 0;
    };
    rest.iter().fold(first.len(), |common, (labels, _)| {
        let both = first.bytes().zip(labels.bytes()).take(common);
        both.take_while(|(left, right)| left == right).count()
    })
}

/// The first bytes as a number that is ordered as they are; what is missing
/// counts as 0.
fn key(bytes: &[u8]) -> u128 {
    let mut first = [0; KEY_BYTES];
    let length = bytes.len().min(KEY_BYTES);
    first[..length].copy_from_slice(&bytes[..length]);
    u128::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_order_of_the_texts_and_stable(
            labels in prop::collection::vec("(code=\"200\",endpoint=\"){0,2}[a\u{0}-\u{2}\u{e9}]{0,20}", 0..40),
        ) {
            let numbered = labels.into_iter().map(String::into_boxed_str);
            let mut series: Vec<_> = numbered.zip(0..).collect();
            let mut expected = series.clone();
            expected.sort_by(|(left, _), (right, _)| left.cmp(right));
            sort_by_labels(&mut series);
            prop_assert_eq!(series, expected);
        }
    }
}
