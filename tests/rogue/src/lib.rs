//! `rogue`: an algorithm that misbehaves on request, for tests of the sandbox, of the
//! guard, and of counts when an algorithm dies. Its input is a JSON string that names
//! the misdeed; its result says whether the misdeed succeeded.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    reason = "generated: it passes strings through the canonical ABI's raw memory; and some \
              misdeeds are not possible otherwise"
)]

use std::{
    env, fs, hint, mem,
    net::SocketAddrV4,
    process, ptr,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use wasip2::sockets::{
    instance_network::instance_network,
    network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress},
    tcp_create_socket::create_tcp_socket,
};

wit_bindgen::generate!({
    path: "../../wit",
    world: "algorithm-component",
});

use exports::functional_scaffold::algorithm::algorithm::{Description, Error, Guest};

struct Rogue;

#[cfg(target_family = "wasm")]
export!(Rogue);

/// The instructions that a call may execute in `rogue.guarded.wasm`: some 20 ms.
#[cfg(target_family = "wasm")]
#[unsafe(link_section = "functional-scaffold-budget")]
#[used]
static BUDGET: [u8; 8] = 40_000_000_u64.to_le_bytes();

/// The number of calls since the module was in its initial state.
static CALLS: Mutex<u32> = Mutex::new(0);

impl Guest for Rogue {
    fn describe() -> Description {
        Description {
            name: "rogue".into(),
            version: "0.0.0".into(),
            summary: "misbehaves on request".into(),
            input_schema: "true".into(),
        }
    }

    fn run(input: String) -> Result<String, Error> {
        let (misdeed, argument) = input
            .trim_matches('"')
            .split_once(' ')
            .unwrap_or((input.trim_matches('"'), ""));
        let poisoned = |_| Error::Failed("a call died with a mutex".into());
        *CALLS.lock().map_err(poisoned)? += 1;
        let succeeded = match misdeed {
            "nothing" => false,
            "calls" => return Ok(CALLS.lock().map_err(poisoned)?.to_string()),
            "environment" => env::vars().next().is_some(),
            "arguments" => env::args().next().is_some(),
            "read-file" => fs::read(argument).is_ok() || fs::read_dir("/").is_ok(),
            "write-file" => fs::write(argument, "x").is_ok(),
            "connect" => connect(argument),
            "print" => {
                println!("{}", unescape(argument));
                true
            }
            "mumble" => {
                let bytes = argument.parse().unwrap_or(0_usize);
                eprint!("{}", "x".repeat(bytes));
                true
            }
            "panic" => panic!("asked to panic"),
            "index" => argument.as_bytes()[hint::black_box(1_000)] == 0,
            "divide" => 1 / hint::black_box(0_u32) == 0,
            "panic-in-drop" => {
                let _panics = PanicsOnDrop;
                panic!("asked to panic")
            }
            "poison" => {
                let _calls = CALLS.lock();
                panic!("asked to panic with a mutex locked")
            }
            "exit" => process::exit(0),
            "trap" => process::abort(),
            "wild-pointer" => write_outside_memory(),
            "allocate" => allocate(),
            "recurse" => recurse(argument.parse().unwrap_or(u64::MAX)) > 0,
            "loop" => loop {
                hint::spin_loop();
            },
            "clock" => loop {
                hint::black_box(Instant::now());
            },
            "flood" => loop {
                println!("rogue");
            },
            "sleep" => {
                thread::sleep(Duration::from_secs(1_000_000));
                true
            }
            "work" => work(argument),
            // Errors that only the guard should return.
            "claim-crash" => return Err(Error::Crashed),
            "claim-limit" => return Err(Error::LimitExceeded),
            "fail" => return Err(Error::Failed("asked to fail".into())),
            "fail-loudly" => return Err(Error::Failed(noise())),
            "refuse-loudly" => return Err(Error::InvalidInput(noise())),
            "babble" => return Ok("{ this is not JSON".into()),
            "talk" => return Ok(talk(argument)),
            other => return Err(Error::InvalidInput(format!("unknown misdeed {other:?}"))),
        };
        Ok(succeeded.to_string())
    }
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("asked to panic while panicking");
    }
}

/// Writes to the last byte of the address space, which a component's memory never
/// reaches.
fn write_outside_memory() -> bool {
    let last = ptr::without_provenance_mut::<u8>(hint::black_box(usize::MAX));
    // SAFETY: there is none. The write is out of bounds, which is a trap.
    unsafe { last.write_volatile(1) };
    true
}

/// Allocates until there is no memory left.
fn allocate() -> bool {
    loop {
        mem::forget(hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
    }
}

/// Recurses this many levels deep.
#[inline(never)]
fn recurse(levels: u64) -> u64 {
    match hint::black_box(levels) {
        0 => 1,
        levels => hint::black_box(recurse(levels - 1)) + 1,
    }
}

/// A text of several lines, of which a terminal shows something else, and that is
/// very long.
fn noise() -> String {
    let end = "é".repeat(2_000_000);
    format!("line one\r\n{{\"level\":\"info\"}}\u{2028}\u{202e}\u{1b}[2J {end}")
}

/// A result of so many bytes.
fn talk(bytes: &str) -> String {
    let bytes = bytes.parse().unwrap_or(0_usize);
    format!("\"{}\"", "x".repeat(bytes.saturating_sub(2)))
}

/// The text of a JSON string without escapes other than of quotes and backslashes.
fn unescape(text: &str) -> String {
    let mut escaped = false;
    let is_shown = |character: &char| {
        escaped = *character == '\\' && !escaped;
        !escaped
    };
    text.chars().filter(is_shown).collect()
}

/// Occupies the processor for this many milliseconds.
fn work(millis: &str) -> bool {
    let millis = millis.parse().unwrap_or(0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(millis) {
        hint::spin_loop();
    }
    true
}

fn connect(address: &str) -> bool {
    let Ok(address) = address.parse::<SocketAddrV4>() else {
        return false;
    };
    let [a, b, c, d] = address.ip().octets();
    let address = IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port: address.port(),
        address: (a, b, c, d),
    });
    let network = instance_network();
    let Ok(socket) = create_tcp_socket(IpAddressFamily::Ipv4) else {
        return false;
    };
    if socket.start_connect(&network, address).is_err() {
        return false;
    }
    socket.subscribe().block();
    socket.finish_connect().is_ok()
}
