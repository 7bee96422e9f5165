"""An algorithm in Python that misbehaves on request, for the end-to-end tests."""

import os
import socket
import sys

from functional_scaffold import InvalidInput, algorithm


@algorithm
def rogue(misdeed: str):
    match misdeed.split():
        case ["raise"]:
            raise ValueError("asked to fail\non two lines")
        case ["exit"]:
            sys.exit(1)
        case ["recurse"]:
            return rogue("recurse")
        case ["nan"]:
            return float("nan")
        case ["bytes"]:
            return b"bytes"
        case ["cycle"]:
            cycle = []
            cycle.append(cycle)
            return cycle
        case ["surrogate"]:
            return "\ud800"
        case ["print", word]:
            print(word)
            return None
        case ["import"]:
            import colorsys

            return colorsys.rgb_to_hsv(1, 0, 0)
        case ["environment"]:
            return dict(os.environ)
        case ["read", path]:
            return open(path).read()
        case ["connect", port]:
            return socket.socket().connect(("127.0.0.1", int(port)))
    raise InvalidInput(f"unknown misdeed {misdeed!r}")
