"""What a stock homeserver keeps: its key, what was pushed to it, its queue.

Knows no transport: `grpc_peer` and `hrpc_peer` put it on the wire. A Pull
empties the queue before the answer is written, as the only stock server there
is does it. What a caller does wrong is kept in `faults`.
"""

import base64
import binascii
import contextlib
import re
import socket
import threading
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contract import sync, types
from node import PATIENCE

TIME_WINDOW = 60


class Refused(Exception):
    """The caller did not prove who it is."""


class Port:
    """A port of this machine that stays ours while no server listens on it."""

    def __init__(self):
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.number = self._holder.getsockname()[1]

    def close(self):
        self._holder.close()


class Homeserver:
    """`node`: the one that calls it, whose key it knows."""

    def __init__(self, node):
        self._node = node
        # The id it knows the node by, and the new ones it was told.
        self.node_id = node.server_id
        self.told = []
        self._ports = []
        self.move()
        self.new_key()
        self._changed = threading.Condition()
        self.pushed = []
        self.queue = []
        self.pulls = 0
        self.faults = []
        # While it is cleared, the answer to a Pull waits.
        self.may_answer = threading.Event()
        self.may_answer.set()

    def close(self):
        for port in self._ports:
            port.close()

    # ----- who it is

    def move(self):
        """From now on it goes by another id; returns the one it had."""
        old = getattr(self, "server_id", None)
        self._ports.append(Port())
        self.port = self._ports[-1].number
        self.server_id = f"localhost:{self.port}"
        return old

    def new_key(self):
        self._key = ed25519.Ed25519PrivateKey.generate()
        self.public_key = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def token(self, shift=0, server_id=None, key=None):
        """A plain token, serialized. `shift`: seconds that its clock is off."""
        data = sync.AuthData(server_id=server_id or self.server_id, time=int(time.time()) + shift)
        data = data.SerializeToString()
        return types.Token(sig=(key or self._key).sign(data), data=data).SerializeToString()

    def header(self, server_id=None):
        return base64.b64encode(self.token(server_id=server_id)).decode()

    # ----- what the node calls

    def verify(self, header):
        """A stock server's checks of an authorization header, by the letter."""
        try:
            if not header or not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", header) or len(header) % 4:
                raise Refused("authorization is not bare padded base64")
            token = types.Token.FromString(base64.b64decode(header, validate=True))
            if len(token.sig) != 64:
                raise Refused(f"a signature of {len(token.sig)} bytes")
            key = ed25519.Ed25519PublicKey.from_public_bytes(self._node.key)
            key.verify(token.sig, token.data)
            data = sync.AuthData.FromString(token.data)
            if data.server_id != self.node_id:
                raise Refused(f"signed as {data.server_id}")
            if abs(data.time - time.time()) > TIME_WINDOW:
                raise Refused(f"signed at {data.time}")
        except (Refused, InvalidSignature, binascii.Error, ValueError) as error:
            self.fault(f"token: {error!r}")
            raise Refused(str(error)) from error

    def fault(self, text):
        with self._changed:
            self.faults.append(text)
            self._changed.notify_all()

    def take(self, event):
        with self._changed:
            self.pushed.append(event)
            self._changed.notify_all()

    def follow(self, new_id):
        """The node, which was verified under the id it had, goes by another one."""
        with self._changed:
            self.told.append(new_id)
            self.node_id = new_id
            self._changed.notify_all()

    def hand_over(self):
        with self._changed:
            self.pulls += 1
            self._changed.notify_all()
        self.may_answer.wait(PATIENCE)
        with self._changed:
            events, self.queue = self.queue, []
            return events

    # ----- what a scenario waits for

    def wait_for(self, condition, what):
        with self._changed:
            done = self._changed.wait_for(lambda: self.faults or condition(), PATIENCE)
            assert not self.faults, self.faults
            assert done, f"not within {PATIENCE} s: {what}"

    def wait_for_pushes(self, count):
        self.wait_for(lambda: len(self.pushed) >= count, f"{count} pushed events, there are {len(self.pushed)}")
        return list(self.pushed)

    def wait_for_pulls(self, more):
        self.wait_for(lambda: self.pulls >= more, f"{more} Pulls")


@contextlib.contextmanager
def running(server):
    """`server.start()`, and `server.stop()` at the end."""
    server.start()
    try:
        yield server
    finally:
        server.stop()
