"""The way to the node: a relay of bytes whose way back can be stopped and cut.

One connection at a time. While the way back is stopped, what the node sends
stays in the kernel of this machine, acknowledged and read by nobody.
"""

import array
import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading

from node import until


def unread(sock):
    """Bytes that have arrived and were not read."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]


def cut(sock):
    """Ends a connection with a reset, as a machine does that has forgotten it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Link:
    def __init__(self, node):
        self._to = ("127.0.0.1", node.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._back_open = True
        self._near = self._far = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                with self._lock:
                    self._near, self._far = near, far
                self._relay(near, far)

    def _relay(self, near, far):
        with contextlib.suppress(OSError, ValueError):
            while True:
                with self._lock:
                    sources = [near, self._wake_reader] + ([far] if self._back_open else [])
                readable, _, _ = select.select(sources, [], [])
                if self._wake_reader in readable:
                    self._wake_reader.recv(64)
                if near in readable:
                    data = near.recv(65536)
                    if not data:
                        break
                    far.sendall(data)
                with self._lock:
                    data = far.recv(65536) if far in readable and self._back_open else None
                if data == b"":
                    break
                if data:
                    near.sendall(data)
        near.close()
        far.close()

    def stop_back(self):
        with self._lock:
            self._back_open = False
        self._wake_writer.send(b"!")

    def open_back(self):
        with self._lock:
            self._back_open = True
        self._wake_writer.send(b"!")

    def wait_for_bytes(self, count):
        until(lambda: unread(self._far) >= count, f"{count} bytes of an answer on the way")

    def cut(self):
        with self._lock:
            cut(self._far)
            cut(self._near)
        self._wake_writer.send(b"!")

    def close(self):
        self._listener.close()
        if self._far is not None:
            self.cut()
