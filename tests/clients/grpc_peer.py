"""A homeserver on the wire by gRPC, with grpcio as it comes: server and client.

No option that matters to the protocol is set unless a scenario says so:
message limits, windows and pings are grpcio's own.
"""

import base64
from concurrent import futures

import grpc

from contract import auth, auth_grpc, sync, sync_grpc
from homeserver import Refused
from node import PATIENCE


class Server:
    def __init__(self, home, certificates):
        self._home = home
        self._pair = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
        self._server = None

    def start(self):
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        auth_grpc.add_AuthServiceServicer_to_server(_Auth(self._home), self._server)
        sync_grpc.add_PostboxServiceServicer_to_server(_Postbox(self._home), self._server)
        port = self._server.add_secure_port(
            f"127.0.0.1:{self._home.port}", grpc.ssl_server_credentials([self._pair])
        )
        assert port == self._home.port, "the port that was held is not free"
        self._server.start()

    def stop(self):
        """Cuts what is open; returns when nothing listens any more."""
        if self._server is not None:
            self._server.stop(None).wait(PATIENCE)
            self._server = None


class _Auth(auth_grpc.AuthServiceServicer):
    def __init__(self, home):
        self._home = home

    def Key(self, request, context):
        return auth.KeyResponse(key=self._home.public_key)


class _Postbox(sync_grpc.PostboxServiceServicer):
    def __init__(self, home):
        self._home = home

    def _verify(self, context):
        headers = [value for name, value in context.invocation_metadata() if name == "authorization"]
        if len(headers) != 1:
            self._home.fault(f"{len(headers)} authorization headers")
        try:
            self._home.verify(headers[0] if headers else "")
        except Refused as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    def Push(self, request, context):
        self._verify(context)
        self._home.take(request.event)
        return sync.PushResponse()

    def Pull(self, request, context):
        self._verify(context)
        return sync.PullResponse(event_queue=self._home.hand_over())

    def NotifyNewId(self, request, context):
        self._verify(context)
        self._home.follow(request.new_server_id)
        return sync.NotifyNewIdResponse()


# 64 KiB and not more when the link seems fast.
SMALL_WINDOW = [("grpc.http2.lookahead_bytes", 65535), ("grpc.http2.bdp_probe", 0)]


class Client:
    """A channel to the node, with a connection of its own. `name`: of the node."""

    def __init__(self, home, node, port=None, more=(), name="localhost"):
        self._home = home
        credentials = grpc.ssl_channel_credentials(node.certificate.read_bytes())
        options = [
            ("grpc.ssl_target_name_override", name),
            ("grpc.default_authority", name),
            ("grpc.enable_http_proxy", 0),
            # Else channels of one process share connections.
            ("grpc.use_local_subchannel_pool", 1),
            *more,
        ]
        self._channel = grpc.secure_channel(f"ipv4:127.0.0.1:{port or node.port}", credentials, options)
        self.auth = auth_grpc.AuthServiceStub(self._channel)
        self.postbox = sync_grpc.PostboxServiceStub(self._channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ready(self):
        grpc.channel_ready_future(self._channel).result(PATIENCE)

    def close(self):
        self._channel.close()

    def _metadata(self, metadata):
        return [("authorization", self._home.header())] if metadata is None else metadata

    def push(self, event, metadata=None, **more):
        request = sync.PushRequest(event=event)
        return self.postbox.Push(request, metadata=self._metadata(metadata), timeout=PATIENCE, **more)

    def push_later(self, event):
        request = sync.PushRequest(event=event)
        return self.postbox.Push.future(request, metadata=self._metadata(None), timeout=PATIENCE)

    def pull(self, metadata=None):
        answer = self.postbox.Pull(sync.PullRequest(), metadata=self._metadata(metadata), timeout=PATIENCE)
        return list(answer.event_queue)

    def notify_new_id(self, new_id, as_id):
        """`as_id`: who the token says the caller is."""
        request = sync.NotifyNewIdRequest(new_server_id=new_id)
        metadata = [("authorization", self._home.header(as_id))]
        return self.postbox.NotifyNewId(request, metadata=metadata, timeout=PATIENCE)

    def pull_later(self):
        return self.postbox.Pull.future(sync.PullRequest(), metadata=self._metadata(None), timeout=PATIENCE)


def every_form(token):
    """The ways to carry a serialized token."""
    padded = base64.b64encode(token).decode()
    url = base64.urlsafe_b64encode(token).decode()
    return [
        [("authorization-bin", token)],
        [("authorization", padded)],
        [("authorization", padded.rstrip("="))],
        [("authorization", url)],
        [("authorization", url.rstrip("="))],
        [("authorization", token.hex())],
        [("authorization", f"Bearer {padded}")],
        [("authorization", f"Harmony {padded}")],
    ]


def refused(call, code):
    """The text with which the node refuses the call."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} and not {code}: {error.details()}"
        return error.details()
    raise AssertionError(f"the call went well; {code} is due")
