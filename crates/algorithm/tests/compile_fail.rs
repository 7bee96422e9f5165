//! Functions that `#[algorithm]` refuses, with the message and the place in the user's code.

#[test]
fn mistakes_are_reported_where_they_are_written() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
