//! Puts the scripts for Redis together from `src/lua/`, without comments, and
//! computes the digests that `EVALSHA` names them by: an instance that lives for
//! milliseconds has none to spare for it, and a component is to be small.

use std::{env, fs, io, path::Path};

/// Each script's name, and the files that it is made of, in order.
const SCRIPTS: [(&str, &[&str]); 7] = [
    ("APPLY", &["clock", "add", "expire", "apply"]),
    ("SETTLE", &["clock", "expire", "settle"]),
    ("REGISTER", &["clock", "contents", "register"]),
    ("IS_REGISTERED", &["clock", "contents", "is_registered"]),
    ("ADD_LOST_COUNTS", &["add", "add_lost_counts"]),
    ("REMOVE", &["remove"]),
    ("WIPE", &["wipe"]),
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=src/lua");
    let mut built = String::new();
    for (name, files) in SCRIPTS {
        let mut source = String::new();
        for file in files {
            let path = Path::new("src/lua").join(file).with_extension("lua");
            let text = fs::read_to_string(path)?;
            // No text in them spans lines, so nothing but a comment begins so.
            let lines = text.lines().map(str::trim);
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with("--")) {
                source.push_str(line);
                source.push('\n');
            }
        }
        let sha = sha1_smol::Sha1::from(&source).digest();
        built.push_str(&format!(
            "pub(super) const {name}: Script = Script {{ source: {source:?}, sha: \"{sha}\" }};\n"
        ));
    }
    let folder = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    fs::write(Path::new(&folder).join("scripts.rs"), built)
}
