"""Scenarios with users that speak the contract of `chat.Chat` by grpcio."""

import queue

import grpc

import contract
from node import PATIENCE
from scenarios_router import refused
from stream import Stream

pb = contract.chat


class Talker:
    """A user, or (without a name) a service, with a connection of its own."""

    def __init__(self, node, principal, name=""):
        [made] = node.run("token", "new", principal)
        self.name = name
        self._metadata = (("authorization", f"Bearer {made['token']}"),)
        credentials = grpc.ssl_channel_credentials(node.certificate.read_bytes())
        self._channel = grpc.secure_channel(f"localhost:{node.port}", credentials)
        self._stub = contract.chat_grpc.ChatStub(self._channel)

    def call(self, method, request, *metadata):
        """The answer, and what comes behind it."""
        call = getattr(self._stub, method).with_call
        answer, done = call(request, timeout=PATIENCE, metadata=self._metadata + metadata)
        return answer, dict(done.trailing_metadata())

    def new(self, *users):
        return self.call("New", pb.NewRequest(user_ids=users))[0].chat_id

    def send(self, chat, text, client_id="", subject=""):
        request = pb.SendRequest(chat_id=chat, user_id=self.name, text=text, client_id=client_id, subject=subject)
        self.call("Send", request)

    def history(self, chat, *metadata):
        answer, trailing = self.call("History", pb.HistoryRequest(chat_id=chat), *metadata)
        return list(answer.messages), trailing

    def connect(self, chat, *metadata):
        return Line(self._stub, self._metadata + (("chat-id", chat), ("user-id", self.name)) + metadata)

    def raw_send(self, request):
        """Bytes that no protobuf library would write."""
        call = self._channel.unary_unary("/chat.Chat/Send")
        return call(request, timeout=PATIENCE, metadata=self._metadata)


class Line(Stream):
    """An open Connect."""

    def __init__(self, stub, metadata):
        self._said = queue.SimpleQueue()
        super().__init__(stub.Connect(iter(self._said.get, None), metadata=metadata, timeout=PATIENCE))

    def say(self, text, **fields):
        self._said.put(pb.Message(text=text, **fields))

    def close(self):
        self._said.put(None)
        super().close()


def talkers(node, _):
    alice, bob = Talker(node, "user:alice", "alice"), Talker(node, "user:bob", "bob")
    chat = alice.new("alice", "bob")
    assert chat == bob.new("bob", "alice", "bob", f"alice@{node.server_id}"), chat
    assert [len(part) for part in chat.split("-")] == [8, 4, 4, 4, 12], chat

    # What is sent is read, with all its parts and once.
    alice.send(chat, "hello, Bob \N{WAVING HAND SIGN}", client_id="one", subject="greetings")
    alice.send(chat, "hello again", client_id="one")
    bob.send(chat, "hello, Alice")
    history, trailing = bob.history(chat)
    shown = [(it.user_id, it.subject, it.text, it.chat_id) for it in history]
    assert shown == [
        ("alice", "greetings", "hello, Bob \N{WAVING HAND SIGN}", chat),
        ("bob", "", "hello, Alice", chat),
    ], shown
    assert history[0].client_id == "one" and len({it.id for it in history}) == 2
    assert "x-more" not in trailing, trailing

    # Streams: what others say comes, one's own does not; a resumed one has no gap.
    heard, said = bob.connect(chat), alice.connect(chat)
    for n in range(20):
        said.say(f"line {n}")
    lines = [heard.next() for _ in range(10)]
    heard.close()
    said.say("while bob was away", chat_id=chat, user_id="alice")
    again = bob.connect(chat, ("x-after-id", lines[-1].id))
    lines += [again.next() for _ in range(11)]
    assert [it.text for it in lines] == [f"line {n}" for n in range(20)] + ["while bob was away"], lines
    bob.send(chat, "I am back")
    assert said.next().text == "I am back"

    # Pages, newest first; what is older is said behind the answer.
    pages, before = [], ()
    while True:
        page, trailing = bob.history(chat, ("x-limit", "7"), *before)
        pages = page + pages
        if trailing.get("x-more") != "true":
            break
        before = (("x-before-id", page[0].id),)
    assert pages == bob.history(chat)[0] and len(pages) == 24, len(pages)

    # A stream ends with its reason.
    said.say("somebody else's", user_id="bob")
    code, text = said.ends()
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "user_id" in text, (code, text)

    # What nobody may, and what is not there.
    mallory, service = Talker(node, "user:mallory", "mallory"), Talker(node, "service:backend", "carol")
    refused(grpc.StatusCode.PERMISSION_DENIED, mallory.history, chat)
    refused(grpc.StatusCode.PERMISSION_DENIED, mallory.send, chat, "x")
    mallory.name = "alice"
    refused(grpc.StatusCode.PERMISSION_DENIED, mallory.send, chat, "as alice")
    refused(grpc.StatusCode.PERMISSION_DENIED, mallory.new, "alice", "bob")
    assert len(service.history(chat)[0]) == 24
    trio = service.new("alice", "bob", "carol")
    service.send(trio, "from whoever the service acts for")
    refused(grpc.StatusCode.NOT_FOUND, alice.history, "no chat at all")
    assert "text" in refused(grpc.StatusCode.INVALID_ARGUMENT, alice.send, chat, "")
    assert "chat_id" in refused(grpc.StatusCode.INVALID_ARGUMENT, alice.send, "", "x")

    # A text that is no UTF-8 stores nothing and ends nothing else.
    request = pb.SendRequest(chat_id=chat, user_id="alice", text="~~").SerializeToString()
    for broken in (b"\xff\xfe", b"\xc3\x28"):
        wrong = request.replace(b"~~", broken)
        refused_codes = (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
        try:
            alice.raw_send(wrong)
        except grpc.RpcError as error:
            assert error.code() in refused_codes, error
        else:
            raise AssertionError("not refused")
    assert len(alice.history(chat)[0]) == 24
