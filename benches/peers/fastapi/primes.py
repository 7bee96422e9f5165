"""Prime factors of integers below 2^64: Miller-Rabin and Pollard's rho."""

from math import gcd

SMALL_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def is_prime(number: int) -> bool:
    """Deterministic below 2^64 with the first twelve primes as bases."""
    if number < 2:
        return False
    for prime in SMALL_PRIMES:
        if number % prime == 0:
            return number == prime
    twos = ((number - 1) & (1 - number)).bit_length() - 1
    odd = (number - 1) >> twos
    for base in SMALL_PRIMES:
        power = pow(base, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def divisor(composite: int) -> int:
    """A divisor of an odd composite other than 1 and itself."""
    for step in range(1, composite):
        slow = fast = 2
        found = 1
        while found == 1:
            slow = (slow * slow + step) % composite
            fast = (fast * fast + step) % composite
            fast = (fast * fast + step) % composite
            found = gcd(slow - fast, composite)
        if found != composite:
            return found
    raise ValueError(f"{composite} has no divisor")


def factorize(number: int) -> list[tuple[int, int]]:
    """Pairs of prime and exponent, ascending."""
    factors: dict[int, int] = {}
    rest = number
    for prime in SMALL_PRIMES:
        while rest > 1 and rest % prime == 0:
            factors[prime] = factors.get(prime, 0) + 1
            rest //= prime
    parts = [rest] if rest > 1 else []
    while parts:
        part = parts.pop()
        if is_prime(part):
            factors[part] = factors.get(part, 0) + 1
        else:
            found = divisor(part)
            parts += [found, part // found]
    return sorted(factors.items())
