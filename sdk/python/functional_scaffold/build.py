"""`python3 -m functional_scaffold.build`: builds the component of the algorithm in
this folder, NAME.wasm, unless it is up to date.

The packages of requirements.txt are installed into .venv, once.
"""

import os
import subprocess
import tomllib
import venv
from pathlib import Path

SDK = Path(__file__).resolve().parent
ENVIRONMENT = Path(".venv")
REQUIREMENTS = Path("requirements.txt")


def main():
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    component = Path(f"{project['name']}.wasm")
    if is_outdated(component):
        install()
        build(component)
        print(f"{component}: {component.stat().st_size} bytes")


def is_outdated(component):
    """Whether a file of the algorithm or of the SDK is newer than the component."""
    if not component.exists():
        return True
    built = component.stat().st_mtime
    return any(file.stat().st_mtime > built for file in [*files(Path()), *files(SDK)])


def files(folder):
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix == ".wasm":
            continue
        elif path.is_dir():
            yield from files(path)
        else:
            yield path


def install():
    installed = ENVIRONMENT / REQUIREMENTS
    if installed.exists() and installed.read_text() == REQUIREMENTS.read_text():
        return
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    pip = [ENVIRONMENT / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--requirement", REQUIREMENTS], check=True)
    installed.write_text(REQUIREMENTS.read_text())


def build(component):
    subprocess.run(
        [
            ENVIRONMENT / "bin" / "componentize-py",
            *["--wit-path", SDK / "algorithm.wit", "--world", "algorithm-component"],
            *["componentize", "functional_scaffold.component", "--output", component],
            *["--python-path", ".", "--python-path", SDK.parent],
        ],
        check=True,
        # It adds the packages of this environment, or else those of the Python on PATH.
        # Of its own errors it would show the Rust code that they come from.
        env=os.environ | {"VIRTUAL_ENV": str(ENVIRONMENT.resolve()), "RUST_BACKTRACE": "0"},
    )


if __name__ == "__main__":
    main()
