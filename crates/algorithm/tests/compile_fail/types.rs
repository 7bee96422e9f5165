use functional_scaffold_algorithm::algorithm;

type Either<T> = Result<T, std::num::ParseIntError>;

struct NotDerived;

#[algorithm]
fn plain(_: String) -> NotDerived {
    NotDerived
}

#[algorithm]
fn fallible(_: String) -> Result<NotDerived, std::num::ParseIntError> {
    Ok(NotDerived)
}

#[algorithm]
fn with_another_error(_: String) -> Result<u64, NotDerived> {
    Err(NotDerived)
}

#[algorithm]
fn of_what(_: NotDerived) -> u64 {
    0
}

fn main() {}
#[algorithm]
fn aliased(_: String) -> Either<NotDerived> {
    Ok(NotDerived)
}
