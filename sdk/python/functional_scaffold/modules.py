"""Modules that are imported after the build.

The component has no files at run time, but the standard library imports some of its
modules where it needs them: `Counter.most_common` imports `heapq`. So the sources of
all modules are kept in memory, compressed.
"""

import os
import zlib
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.util import spec_from_file_location
from pathlib import Path

# Of no use without a terminal, a screen or a file system.
LEFT_OUT = {
    "__pycache__",
    "ensurepip",
    "idlelib",
    "pip",
    "pkg_resources",
    "pydoc_data",
    "setuptools",
    "test",
    "tkinter",
}


class KeptModules(MetaPathFinder, SourceLoader):
    def __init__(self, folders):
        self.files = {}
        self.sources = {}
        for folder in folders:
            for root, folders_in, files in os.walk(folder):
                # Not .venv, __pycache__ and packages' metadata.
                is_kept = lambda name: name.isidentifier() and name not in LEFT_OUT
                folders_in[:] = filter(is_kept, folders_in)
                for file in files:
                    if file.endswith(".py"):
                        self.keep(Path(root, file), folder)

    def keep(self, file, folder):
        name = ".".join(file.relative_to(folder).with_suffix("").parts)
        self.files.setdefault(name.removesuffix(".__init__"), str(file))
        self.sources[str(file)] = zlib.compress(file.read_bytes())

    def find_spec(self, name, path=None, target=None):
        file = self.files.get(name)
        return file and spec_from_file_location(name, file, loader=self)

    def get_filename(self, name):
        return self.files[name]

    def get_data(self, path):
        return zlib.decompress(self.sources[path])
