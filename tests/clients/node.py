"""The node under test, as its operator sees it: the commands, nothing else.

It is started by the Rust test, which says where it is.
"""

import base64
import json
import os
import pathlib
import subprocess
import threading
import time

# Settings of whoever runs the tests are not the node's.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PILLARBOX_")}
# No condition is waited for longer, in seconds.
PATIENCE = 20


def until(condition, what):
    """Returns the first true value of `condition()`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.02)  # between two looks


class Node:
    def __init__(self, arguments):
        self.binary = arguments.binary
        self.data_dir = pathlib.Path(arguments.data_dir)
        self.server_id = arguments.server_id
        self.key = base64.b64decode(arguments.key, validate=True)
        self.listen = arguments.listen

    @property
    def port(self):
        return int(self.listen.rsplit(":", 1)[1])

    @property
    def certificate(self):
        """What its clients trust."""
        return self.data_dir / "tls" / "cert.pem"

    def _command(self, *words):
        return [self.binary, "--data-dir", str(self.data_dir), "--json", *map(str, words)]

    def run(self, *words):
        """The lines that a command prints, read as JSON."""
        done = subprocess.run(
            self._command(*words), capture_output=True, text=True, timeout=PATIENCE, env=_ENVIRONMENT
        )
        if done.returncode != 0:
            raise AssertionError(f"{words[:2]}: exit {done.returncode}: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def add(self, peer_id):
        self.run("peer", "add", peer_id)

    def show(self, peer_id):
        """One peer: `state`, `queued`, … and the details beside them."""
        [detail] = self.run("peer", "show", peer_id)
        return {**detail, **detail.pop("peer")}

    def wait(self, peer_id, **expected):
        """Waits until `show` says so."""
        seen = {}

        def reached():
            seen.update(self.show(peer_id))
            return all(seen[name] == value for name, value in expected.items())

        try:
            until(reached, "")
        except AssertionError:
            raise AssertionError(f"the peer is not {expected} after {PATIENCE} s but {seen}") from None
        return seen

    def send(self, peer_id, event):
        """When this returns, the event is on disk there."""
        kind = event.WhichOneof("kind")
        it = getattr(event, kind)
        words = {
            "user_added_to_guild": lambda: ("user-added", "--user", it.user_id, "--guild", it.guild_id),
            "user_removed_from_guild": lambda: ("user-removed", "--user", it.user_id, "--guild", it.guild_id),
            "user_invited": lambda: (
                *("user-invited", "--user", it.user_id),
                *("--inviter", it.inviter_id, "--invite", it.invite_id),
            ),
            "user_rejected_invite": lambda: (
                *("user-rejected", "--user", it.user_id),
                *("--guild", it.guild_id, "--invite", it.invite_id),
            ),
        }[kind]()
        self.run("event", "send", "--to", peer_id, *words)

    def received(self, count):
        """The first `count` events of the inbound log: (sender, {kind: fields})."""
        process = subprocess.Popen(
            self._command("event", "tail", "--after", 0),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_ENVIRONMENT,
        )
        # The stream is endless: a read of it ends at the latest with the process.
        end = threading.Timer(PATIENCE, process.kill)
        end.start()
        rows = []
        try:
            for line in process.stdout:
                row = json.loads(line)
                rows.append((row["sender"], row["event"]))
                if len(rows) == count:
                    return rows
            raise AssertionError(f"{len(rows)} events arrived within {PATIENCE} s and not {count}: {rows[-3:]}")
        finally:
            end.cancel()
            process.kill()
            process.wait()
            process.stdout.close()

    def dead(self):
        """The dead letters, oldest first."""
        return self.run("dead", "list")[::-1]


def as_printed(event):
    """An event as the commands print it."""
    kind = event.WhichOneof("kind")
    it = getattr(event, kind)
    return {kind: {field.name: getattr(it, field.name) for field in it.DESCRIPTOR.fields}}
