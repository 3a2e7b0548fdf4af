"""A gateway and a backend that speak the contracts of the push channel by grpcio."""

import json
import random
import threading

import grpc

import contract
from node import PATIENCE, until
from scenarios_chat import Talker
from scenarios_router import refused
from stream import Stream


class Caller:
    """A principal with a connection of its own."""

    def __init__(self, node, principal):
        [made] = node.run("token", "new", principal)
        self.token, self.token_id = made["token"], made["id"]
        self._metadata = (("authorization", f"Bearer {self.token}"),)
        credentials = grpc.ssl_channel_credentials(node.certificate.read_bytes())
        self._channel = grpc.secure_channel(f"localhost:{node.port}", credentials)

    def subscribe(self, gateway, cursor=""):
        stub = contract.push_grpc.PushStub(self._channel)
        request = contract.push.GatewaySubscribeRequest(gateway_client_id=gateway, cursor=cursor)
        return Feed(stub.SubscribePush(request, metadata=self._metadata, timeout=PATIENCE))

    def publish(self, user, payload, kind="test.event", **fields):
        stub = contract.published_grpc.PublisherStub(self._channel)
        request = contract.published.PublishRequest(
            user_id=user, kind=kind, payload=json.dumps(payload).encode(), **fields
        )
        return stub.Publish(request, metadata=self._metadata, timeout=PATIENCE)

    def check(self, token):
        stub = contract.published_grpc.SessionsStub(self._channel)
        request = contract.published.CheckRequest(token=token, user_agent="python")
        return stub.Check(request, metadata=self._metadata, timeout=PATIENCE)


class Feed(Stream):
    """An open SubscribePush."""

    def __init__(self, call):
        super().__init__(call)
        headers = dict(call.initial_metadata())
        self.reset, self.oldest = headers.get("x-cursor-reset"), headers.get("x-oldest-cursor")


def gateway(node, _):
    web, shop = Caller(node, "gateway:web"), Caller(node, "service:shop")

    # Nobody listens: nothing is kept. Then everything is, in order, with all its parts.
    assert shop.publish("alice", {}).cursor == ""
    feed = web.subscribe("web")
    assert feed.reset is None and len(feed.oldest) == 20 and feed.oldest.isdigit(), feed.oldest
    phone = Caller(node, "user:alice")
    fields = {"event_id": "e-1", "request_id": "r-1", "trace_id": "t-1", "device_session_id": phone.token_id}
    answer = shop.publish("alice", {"order": 17}, kind="orders.shipped", **fields)
    assert shop.publish("alice", {"order": 17}, kind="orders.shipped", **fields) == answer, "stored once"
    first = feed.next()
    told = first.client_event
    assert first.cursor == answer.cursor and len(first.cursor) == 20, first
    assert json.loads(told.payload) == {"order": 17} and told.kind == "orders.shipped", told
    assert all(getattr(told, name) == value for name, value in fields.items()), told

    # A gateway that dies at random: nothing is lost, nothing comes again after its cursor.
    count, dice, cursor, seen = 300, random.Random(5), first.cursor, []

    def publish():
        for n in range(count):
            shop.publish("alice", n)

    publishing = threading.Thread(target=publish)
    publishing.start()
    feed.close()
    while len(seen) < count:
        feed = web.subscribe("web", cursor)
        assert feed.reset is None, feed.reset
        for _ in range(min(dice.randrange(1, 40), count - len(seen))):
            event = feed.next()
            assert event.cursor > cursor, (event.cursor, cursor)
            cursor = event.cursor
            seen.append(json.loads(event.client_event.payload))
        feed.close()
    publishing.join()
    assert seen == list(range(count)), seen

    # A newer stream of one gateway id replaces the older one.
    older, newer = web.subscribe("web", cursor), None
    newer = web.subscribe("web", cursor)
    assert older.ends()[0] == grpc.StatusCode.ABORTED

    # Cursors that are of no use.
    for unknown in ("9" * 19, "9" * 20, "x", str(int(cursor))):
        assert web.subscribe("web", unknown).reset == "unknown", unknown
    assert web.subscribe("web", "0" * 20).reset == "expired"

    # A message of a chat, and the end of a session, which is the last that the gateway hears of it.
    newer = web.subscribe("web", cursor)
    alice = Talker(node, "user:alice", "alice")
    chat = alice.new("alice", "bob")
    alice.send(chat, "hello, Bob", client_id="c")
    told = newer.next().client_event
    assert (told.user_id, told.kind) == ("bob", "chat.message"), told
    message = json.loads(told.payload)
    [kept] = alice.history(chat)[0]
    assert (message["text"], message["user_id"], message["chat_id"]) == ("hello, Bob", "alice", chat), message
    assert (message["id"], message["sent_at"]) == (kept.id, kept.sent_at), message

    bob = Caller(node, "user:bob")
    session = web.check(bob.token)
    assert (session.user_id, session.device_session_id, session.expires_at) == ("bob", bob.token_id, 0), session
    node.run("session", "revoke", "bob", bob.token_id)
    ended = newer.next().session_invalidation
    assert (ended.user_id, ended.device_session_id, ended.reason) == ("bob", bob.token_id, "revoked"), ended
    assert refused(grpc.StatusCode.UNAUTHENTICATED, web.check, bob.token).startswith("token: ")

    # Whoever may not.
    for caller in (shop, Caller(node, "gateway:app"), Caller(node, "user:carol")):
        code, text = caller.subscribe("web").ends()
        assert code == grpc.StatusCode.PERMISSION_DENIED, (code, text)
    refused(grpc.StatusCode.PERMISSION_DENIED, web.publish, "alice", {})
    refused(grpc.StatusCode.PERMISSION_DENIED, shop.check, bob.token)
    refused(grpc.StatusCode.INVALID_ARGUMENT, shop.publish, "alice", {}, "chat.message")
    text = refused(grpc.StatusCode.NOT_FOUND, lambda: shop.publish("bob", {}, device_session_id=phone.token_id))
    assert text.startswith("device_session_id: "), text

    # A gateway's own token.
    node.run("token", "revoke", web.token_id)
    assert newer.ends()[0] == grpc.StatusCode.UNAUTHENTICATED
    until(lambda: web.subscribe("web").ends()[0] == grpc.StatusCode.UNAUTHENTICATED, "a revoked gateway stays out")
