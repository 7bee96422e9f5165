"""Serves the service on a port of 127.0.0.1 by two processes: `serve.py PORT`.

Not uvicorn's own two workers: they share one listening socket, from which one of them may
accept every connection, so that the other has nothing to do. Here each process listens for
itself, and the kernel divides the connections between them."""

import os
import socket
import sys

import uvicorn


def serve(port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        config = uvicorn.Config(
            "service:app",
            loop="uvloop",
            http="httptools",
            access_log=False,
            log_level="warning",
        )
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    os.fork()
    serve(int(sys.argv[1]))
