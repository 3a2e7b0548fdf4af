"""hRPC over HTTP/2, with the h2 package as it comes. It is a client only.

h2 makes and reads frames; the socket, TLS and its ALPN are the standard
library's. Requests may be under way side by side on the one connection.
"""

import http.client
import socket
import ssl

import h2.config
import h2.connection
import h2.events

import hrpc_peer
from node import PATIENCE


class _Response:
    """What has come of an answer, as `http.client` would show it."""

    def __init__(self):
        self.status = None
        self.headers = http.client.HTTPMessage()
        self.body = b""
        self.ended = False

    def read(self):
        return self.body


class Client(hrpc_peer.Client):
    """A connection to the node, which must speak HTTP/2 by ALPN."""

    def __init__(self, home, node):
        self._home = home
        self._authority = f"localhost:{node.port}"
        trust = ssl.create_default_context(cafile=str(node.certificate))
        trust.set_alpn_protocols(["h2", "http/1.1"])
        plain = socket.create_connection(("127.0.0.1", node.port), PATIENCE)
        self._socket = trust.wrap_socket(plain, server_hostname="localhost")
        assert self._socket.selected_alpn_protocol() == "h2", self._socket.selected_alpn_protocol()
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._flush()
        self._answers = {}

    def close(self):
        self._h2.close_connection()
        self._flush()
        self._socket.close()

    def begin(self, path, message=b"", method="POST", authorization=None, **headers):
        """Sends a request and waits for nothing; returns its stream."""
        fields = {"content-type": "application/hrpc", "hrpc-version": "1", "content-length": str(len(message))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization is not None:
            fields["authorization"] = authorization
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self._authority), (":path", path)]
        stream = self._h2.get_next_available_stream_id()
        self._answers[stream] = _Response()
        self._h2.send_headers(stream, pseudo + list(fields.items()), end_stream=not message)
        self._flush()
        while message and not self._answers[stream].ended:
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room == 0:
                self._read()
                continue
            piece, message = message[:room], message[room:]
            self._h2.send_data(stream, piece, end_stream=not message)
            self._flush()
        return stream

    def end(self, stream):
        """The answer, once it is there."""
        while not self._answers[stream].ended:
            self._read()
        return hrpc_peer.Answer(self._answers.pop(stream))

    def call(self, *arguments, **named):
        return self.end(self.begin(*arguments, **named))

    def _flush(self):
        self._socket.sendall(self._h2.data_to_send())

    def _read(self):
        data = self._socket.recv(65536)
        assert data, "the node ended the connection"
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived(stream_id=stream, headers=headers):
                    for name, value in headers:
                        if name == ":status":
                            self._answers[stream].status = int(value)
                        else:
                            self._answers[stream].headers[name] = value
                case h2.events.DataReceived(stream_id=stream, data=piece, flow_controlled_length=length):
                    self._answers[stream].body += piece
                    self._h2.acknowledge_received_data(length, stream)
                case h2.events.StreamEnded(stream_id=stream):
                    self._answers[stream].ended = True
                case h2.events.StreamReset(stream_id=stream, error_code=0) if self._is_whole(stream):
                    pass  # the rest of the request is not wanted
                case h2.events.TrailersReceived() | h2.events.StreamReset() | h2.events.ConnectionTerminated():
                    raise AssertionError(f"hRPC has no {event}")
        self._flush()

    def _is_whole(self, stream):
        return stream not in self._answers or self._answers[stream].ended
