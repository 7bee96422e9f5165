//! What Redis, or something in its place, returns for each script.

#![no_main]

use functional_scaffold_protocol::{
    batch::LoggedPart,
    calls::{AddLostCountsReply, ApplyReply, SettleReply, decode_is_registered},
    lease::Lease,
    removal::Removal,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|reply: Vec<String>| {
    let _ = ApplyReply::decode(reply.clone());
    let _ = SettleReply::decode(reply.clone());
    let _ = AddLostCountsReply::decode(reply.clone());
    let _ = decode_is_registered(reply.clone());
    for text in &reply {
        let _ = Removal::decode(text.as_bytes());
        let _ = Lease::decode(text);
        let _ = serde_json::from_str::<LoggedPart>(text);
    }
});
