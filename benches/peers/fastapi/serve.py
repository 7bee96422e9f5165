"""Serves the FastAPI app from two processes: `serve.py PORT`.

uvicorn's own workers share one listening socket, and one of them may accept nearly every
connection. Here each process has its own socket on the port (SO_REUSEPORT), and the kernel
chooses one for each connection by a hash."""

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
    # Parent and child both serve.
    os.fork()
    serve(int(sys.argv[1]))
