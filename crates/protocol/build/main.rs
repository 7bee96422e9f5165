//! Builds the Lua scripts of `src/lua/` into the crate: includes resolved,
//! comments removed, each with the digest that `EVALSHA` names it by. An instance
//! lives for milliseconds, so it should neither hash nor send comments.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use script::Loader;

mod script;

fn main() -> Result<(), Box<dyn Error>> {
    const FOLDER: &str = "src/lua";
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed={FOLDER}");
    let mut paths: Vec<PathBuf> = fs::read_dir(FOLDER)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "lua"));
    paths.sort();

    let mut code = String::new();
    let mut names = Vec::new();
    for path in &paths {
        let stem = path.file_stem().unwrap_or_default();
        let name = stem.to_string_lossy().to_uppercase();
        let source = Loader::load(path)?;
        let sha = sha1_smol::Sha1::from(&source).digest();
        code.push_str(&format!(
            "pub(super) const {name}: Script = Script {{ source: {source:?}, sha: \"{sha}\" }};\n"
        ));
        names.push(name);
    }
    code.push_str(&format!(
        "pub(super) const ALL: [Script; {}] = [{}];\n",
        names.len(),
        names.join(", ")
    ));
    let folder = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    fs::write(Path::new(&folder).join("scripts.rs"), code)?;
    Ok(())
}
