"""A gateway before the node under test, and what its clients see of it."""

import http.client
import json
import os
import subprocess
import sys
import tempfile

import grpc

from node import PATIENCE


class Backend:
    """A service that tells users something."""

    def __init__(self, node):
        [made] = node.run("token", "new", "service:shop")
        self._metadata = (("authorization", f"Bearer {made['token']}"),)
        credentials = grpc.ssl_channel_credentials(node.certificate.read_bytes())
        self._channel = grpc.secure_channel(f"localhost:{node.port}", credentials)
        self._publish = self._channel.unary_unary("/pillarbox.push.v1.Publisher/Publish")

    def publish(self, user, kind, payload, event_id):
        """PublishRequest by hand: each field is a tag, a length and its bytes."""
        fields = {1: user, 3: kind, 4: payload, 5: event_id}
        request = b""
        for number, text in fields.items():
            data = text.encode()
            length = len(data)
            size = b""
            while length > 127:
                size += bytes([length & 127 | 128])
                length >>= 7
            request += bytes([number << 3 | 2]) + size + bytes([length]) + data
        self._publish(request, timeout=PATIENCE, metadata=self._metadata)


class Gateway:
    """`pillarbox gateway` as its operator starts it."""

    def __init__(self, node, name="web"):
        [made] = node.run("token", "new", f"gateway:{name}")
        self._directory = tempfile.TemporaryDirectory(prefix="gateway-")
        self.log = os.path.join(self._directory.name, "log")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PILLARBOX_")}
        self._environment = {**environment, "PILLARBOX_TOKEN": made["token"]}
        self._command = [
            *(node.binary, "--data-dir", self._directory.name, "--json"),
            *("gateway", "--id", name, "--backend", f"https://localhost:{node.port}"),
            *("--ca-file", str(node.certificate), "--listen"),
        ]
        self._start("127.0.0.1:0")
        self.url = self.ready["url"]
        self.host = self.ready["listen"]

    def _start(self, listen):
        # Whoever reads what this program says must not wait for the gateway's end.
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*self._command, listen], env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.ready = json.loads(self._process.stdout.readline())

    def kill(self):
        self._process.kill()
        self._process.wait()

    def start_again(self):
        """Where it was."""
        self._start(self.host)

    def get(self, path, **headers):
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse()

    def json(self, path):
        answer = self.get(path)
        return answer.status, json.loads(answer.read())

    def events(self, token):
        """The events of a user, as (name, id, data)."""
        answer = self.get("/events", authorization=f"Bearer {token}")
        assert answer.status == 200, answer.status
        fields = {}
        for line in answer:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
                fields = {}

    def stop(self):
        """SIGTERM; it must end in good order."""
        self._process.terminate()
        code = self._process.wait(timeout=PATIENCE)
        assert code == 0, code

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.kill()
        if kind is not None:
            with open(self.log, encoding="utf-8") as log:
                print(f"--- log of the gateway\n{log.read()}", file=sys.stderr)
        self._directory.cleanup()
