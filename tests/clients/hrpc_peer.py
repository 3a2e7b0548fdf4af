"""A homeserver on the wire by hRPC: plain HTTP/1.1 from the standard library.

The server answers as the stock one does: chunked, with both headers. The
client sends its bodies chunked, as that one's does, or with their length.
"""

import contextlib
import http.client
import http.server
import socket
import ssl
import threading

import link
from contract import auth, sync, types
from homeserver import Refused
from node import PATIENCE, until

KEY = "/protocol.auth.v1.AuthService/Key"
PUSH = "/protocol.sync.v1.PostboxService/Push"
PULL = "/protocol.sync.v1.PostboxService/Pull"


class Error(Exception):
    """An answer that is an error. `retry_after`: seconds, of hrpc.v1.RetryInfo."""

    def __init__(self, status, identifier, text="", retry_after=None):
        super().__init__(status, identifier, text, retry_after)
        self.status = status
        # RetryInfo{1: uint32}; less than 128 is one byte.
        details = b"" if retry_after is None else bytes([0x08, retry_after])
        self.body = types.Error(identifier=identifier, human_message=text, more_details=details)


class Server:
    """HTTP/1.1 over TLS and nothing else."""

    def __init__(self, home, certificates):
        self.home = home
        # Paths in the order they were called.
        self.called = []
        # Errors to answer the next Pushes with.
        self.errors = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
        self._context.set_alpn_protocols(["http/1.1"])
        self._server = None

    def start(self):
        self._server = _Listener(self, self._context)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self):
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut_all()
            self._server = None

    def answer(self, path, headers, body):
        """The message that answers a request, or an [`Error`]."""
        self.called.append(path)
        expected = {"content-type": "application/hrpc", "hrpc-version": "1", "host": self.home.server_id}
        for name, value in expected.items():
            if headers.get_all(name) != [value]:
                self.home.fault(f"{path}: {name}: {headers.get_all(name)}")
        if path == KEY:
            return auth.KeyResponse(key=self.home.public_key)
        try:
            self.home.verify(headers.get("authorization"))
        except Refused as error:
            raise Error(400, "h.token-verify-failure", str(error)) from error
        if path == PULL:
            sync.PullRequest.FromString(body)
            return sync.PullResponse(event_queue=self.home.hand_over())
        if path == PUSH:
            if self.errors:
                raise self.errors.pop(0)
            self.home.take(sync.PushRequest.FromString(body).event)
            return sync.PushResponse()
        raise Error(404, "hrpc.not-found", path)


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # The port is held by a socket that does not listen.
    allow_reuse_port = True

    def __init__(self, server, context):
        self.of = server
        self._context = context
        self._open = set()
        super().__init__(("127.0.0.1", server.home.port), _Handler)

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def get_request(self):
        plain, address = super().get_request()
        # The handshake is made by the connection's own thread, at its first read.
        return self._context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def process_request(self, request, client_address):
        self._open.add(request)
        super().process_request(request, client_address)

    def close_request(self, request):
        self._open.discard(request)
        super().close_request(request)

    def cut_all(self):
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address):
        pass  # a connection that broke; what matters is in the faults


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        # The document demands a length.
        if self.headers.get("content-length") is None:
            self.server.of.home.fault(f"{self.path}: no content-length")
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            status, message = 200, self.server.of.answer(self.path, self.headers, body)
        except Error as error:
            status, message = error.status, error.body
        self.send_response(status)
        self.send_header("content-type", "application/hrpc")
        self.send_header("hrpc-version", "1")
        self.send_header("accept", "application/hrpc")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        message = message.SerializeToString()
        for start in range(0, len(message), 16384):
            chunk = message[start : start + 16384]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()
        assert self.headers.get_all("content-type") == ["application/hrpc"], self.headers.items()
        assert self.headers.get_all("hrpc-version") == ["1"], self.headers.items()
        assert not [name for name in self.headers if name.lower().startswith("grpc")], self.headers.items()

    def message(self, kind):
        assert self.status == 200, f"HTTP {self.status}: {self.error()}"
        return kind.FromString(self.body)

    def error(self):
        return types.Error.FromString(self.body)


class Client:
    """A connection to the node. `chunked`: bodies without a length."""

    def __init__(self, home, node, chunked):
        self._home = home
        self._chunked = chunked
        self._trust = ssl.create_default_context(cafile=str(node.certificate))
        # As Python has it from 3.13 on.
        self._trust.verify_flags |= ssl.VERIFY_X509_STRICT
        self._connection = http.client.HTTPSConnection(
            "localhost", node.port, timeout=PATIENCE, context=self._trust
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._connection.close()

    def send(self, path, message=b"", method="POST", authorization=None, **headers):
        """Sends a request and reads nothing."""
        fields = {"content-type": "application/hrpc", "hrpc-version": "1"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization is not None:
            fields["authorization"] = authorization
        if self._chunked:
            # In pieces, so that there is more than one; an empty body is the last chunk alone.
            pieces = iter([message[at : at + 1000] for at in range(0, len(message), 1000)])
            self._connection.request(
                method, path, pieces, fields | {"transfer-encoding": "chunked"}, encode_chunked=True
            )
        else:
            self._connection.request(method, path, message, fields)

    def call(self, path, message=b"", method="POST", authorization=None, **headers):
        self.send(path, message, method, authorization, **headers)
        return Answer(self._connection.getresponse())

    def key(self):
        return self.call(KEY).message(auth.KeyResponse).key

    def push(self, event):
        request = sync.PushRequest(event=event).SerializeToString()
        return self.call(PUSH, request, authorization=self._home.header())

    def pull(self):
        answer = self.call(PULL, authorization=self._home.header())
        return list(answer.message(sync.PullResponse).event_queue)

    def ask_and_cut(self, count):
        """Asks for the queue and cuts the connection when `count` bytes of
        the answer have arrived and before one of them was read."""
        self.send(PULL, authorization=self._home.header())
        sock = self._connection.sock
        until(lambda: link.unread(sock) >= count, f"{count} bytes of an answer on the way")
        # Without the goodbye of TLS.
        link.cut(socket.socket(fileno=sock.detach()))
        self.close()
