//! The build script's handling of `--- @include` in Lua files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use script::Loader;

#[path = "../build/script.rs"]
mod script;

/// A folder of Lua files, removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn with_files(name: &str, files: &[(&str, &str)]) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("the folder is created");
        for (name, text) in files {
            fs::write(folder.join(name), text).expect("the file is written");
        }
        Self(folder)
    }

    fn load(&self, name: &str) -> Result<String, String> {
        Loader::load(&self.0.join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_is_included_once_and_before_its_users() {
    let folder = Folder::with_files(
        "once",
        &[
            (
                "a.lua",
                "-- comment\n--- @include \"b\"\n--- @include \"c\"\n  return b + c\n",
            ),
            ("b.lua", "--- @include \"c\"\nlocal b = c\n"),
            ("c.lua", "\nlocal c = 1\n"),
        ],
    );
    assert_eq!(
        folder.load("a.lua").as_deref(),
        Ok("local c = 1\nlocal b = c\nreturn b + c\n")
    );
}

#[test]
fn cycles_missing_files_and_malformed_includes_are_refused() {
    let folder = Folder::with_files(
        "refused",
        &[
            ("a.lua", "--- @include \"b\"\n"),
            ("b.lua", "--- @include \"a\"\n"),
            ("missing.lua", "--- @include \"nothing\"\n"),
            ("malformed.lua", "--- @include b\n"),
        ],
    );
    for (name, reason) in [
        ("a.lua", "includes itself"),
        ("missing.lua", "cannot read"),
        ("malformed.lua", "malformed include"),
    ] {
        let error = folder.load(name).expect_err(name);
        assert!(error.contains(reason), "{error}");
    }
}
