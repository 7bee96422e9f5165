//! `rogue`: an algorithm that misbehaves on request, for tests of the sandbox and of
//! counts when an algorithm dies. Its input is a JSON string that names the misdeed;
//! its result says whether the misdeed succeeded.

#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    reason = "generated: it passes strings through the canonical ABI's raw memory"
)]

use std::{
    env, fs, hint,
    net::SocketAddrV4,
    process,
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
        let succeeded = match misdeed {
            "nothing" => false,
            "environment" => env::vars().next().is_some(),
            "arguments" => env::args().next().is_some(),
            "read-file" => fs::read(argument).is_ok() || fs::read_dir("/").is_ok(),
            "write-file" => fs::write(argument, "x").is_ok(),
            "connect" => connect(argument),
            "print" => {
                println!("{argument}");
                true
            }
            "exit" => process::exit(0),
            "trap" => process::abort(),
            "loop" => loop {
                hint::spin_loop();
            },
            "work" => work(argument),
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
