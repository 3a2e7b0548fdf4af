"""Scenarios with MPC parties that speak the router's contract by grpcio."""

import hashlib
import struct
import threading

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import contract
from node import PATIENCE, until

pb = contract.router
sessions = contract.sessions


class Party:
    """A party, or (without a name) a service, with a connection of its own."""

    def __init__(self, node, principal, name=""):
        [made] = node.run("token", "new", principal)
        self.name = name
        self._metadata = (("authorization", f"Bearer {made['token']}"),)
        credentials = grpc.ssl_channel_credentials(node.certificate.read_bytes())
        channel = grpc.secure_channel(f"localhost:{node.port}", credentials)
        self._stub = contract.router_grpc.MessageRouterStub(channel)
        self._sessions = contract.sessions_grpc.SessionsStub(channel)

    def call(self, method, request, *metadata):
        return getattr(self._stub, method)(request, timeout=PATIENCE, metadata=self._metadata + metadata)

    def look(self, method, request):
        return getattr(self._sessions, method)(request, timeout=PATIENCE, metadata=self._metadata)

    def route(self, session, to, payload, kind="round", *metadata):
        request = pb.RouteMessageRequest(
            session_id=session, from_party=self.name, to_parties=to, round_number=1, message_type=kind, payload=payload
        )
        answer = self.call("RouteMessage", request, *metadata)
        assert answer.success
        return answer.message_id

    def subscribe(self, session=""):
        return self.call("SubscribeMessages", pb.SubscribeMessagesRequest(session_id=session, party_id=self.name))

    def acknowledge(self, message, success=True, error=""):
        request = pb.AcknowledgeMessageRequest(
            message_id=message.message_id,
            party_id=self.name,
            session_id=message.session_id,
            success=success,
            error_message=error,
        )
        assert self.call("AcknowledgeMessage", request).success

    def status(self, message_id):
        return self.call("GetMessageStatus", pb.GetMessageStatusRequest(message_id=message_id))


def refused(code, call, *arguments):
    """The text of the refusal."""
    try:
        answer = call(*arguments)
        # A stream is refused when it is read.
        if hasattr(answer, "__next__"):
            next(answer)
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        return error.details()
    raise AssertionError(f"not refused: {answer}")


def parties(node, _):
    names = ["p1", "p2", "p3"]
    service = Party(node, "service:coordinator")
    everyone = [Party(node, f"party:{name}", name) for name in names]
    for party in everyone:
        answer = party.call("RegisterParty", pb.RegisterPartyRequest(party_id=party.name, party_role="persistent"))
        assert answer.success and answer.registered_at > 0

    event = pb.SessionEvent(
        event_type="session_created",
        session_id="signing",
        threshold_n=3,
        threshold_t=2,
        selected_parties=names,
        join_tokens={name: f"token of {name}" for name in names},
        message_hash=b"\x01" * 32,
    )
    service.call("PublishSessionEvent", pb.PublishSessionEventRequest(event=event))
    for party in everyone:
        events = party.call("SubscribeSessionEvents", pb.SubscribeSessionEventsRequest(party_id=party.name))
        seen = next(events)
        assert dict(seen.join_tokens) == {party.name: f"token of {party.name}"}, seen
        assert list(seen.selected_parties) == names and seen.message_hash == event.message_hash
        events.cancel()

    # Each sends ten broadcasts, and a word to each other; each reads and acknowledges.
    heard = {name: [] for name in names}

    def listen(party):
        stream = party.subscribe("signing")
        for message in stream:
            heard[party.name].append((message.from_party, message.payload, message.is_broadcast))
            party.acknowledge(message)
            if len(heard[party.name]) == 2 * 11:
                stream.cancel()
                return

    listeners = [threading.Thread(target=listen, args=(party,), daemon=True) for party in everyone]
    for listener in listeners:
        listener.start()
    sent = []
    for party in everyone:
        sent += [(party, party.route("signing", [], bytes([n]))) for n in range(10)]
        sent.append((party, party.route("signing", [name for name in names if name != party.name], b"share")))
    for listener in listeners:
        listener.join(PATIENCE)
        assert not listener.is_alive(), heard
    for name in names:
        for other in names:
            if other != name:
                payloads = [payload for sender, payload, _ in heard[name] if sender == other]
                assert payloads == [bytes([n]) for n in range(10)] + [b"share"], (name, other, payloads)
    for party, message_id in sent:
        until(lambda: party.status(message_id).all_acknowledged, "every recipient has acknowledged")

    # A retry under a key is the same message; other content is refused.
    alice, key = everyone[0], ("idempotency-key", "once")
    first = alice.route("signing", ["p2"], b"x", "round", key)
    assert alice.route("signing", ["p2"], b"x", "round", key) == first
    refused(grpc.StatusCode.ALREADY_EXISTS, alice.route, "signing", ["p2"], b"y", "round", key)

    # What nobody may.
    mallory = Party(node, "party:mallory", "p1")
    refused(grpc.StatusCode.PERMISSION_DENIED, mallory.route, "signing", ["p2"], b"forged")
    refused(grpc.StatusCode.PERMISSION_DENIED, mallory.subscribe)
    refused(grpc.StatusCode.PERMISSION_DENIED, mallory.status, first)
    assert "session_id" in refused(grpc.StatusCode.INVALID_ARGUMENT, alice.route, "", ["p2"], b"x")

    pending = everyone[1].call(
        "GetPendingMessages", pb.GetPendingMessagesRequest(party_id="p2", session_id="signing")
    ).messages
    assert [message.payload for message in pending] == [b"x"]
    beat = everyone[1].call("Heartbeat", pb.HeartbeatRequest(party_id="p2"))
    assert beat.success and beat.pending_messages == 1
    listed = service.call("GetRegisteredParties", pb.GetRegisteredPartiesRequest(only_online=True))
    assert listed.total_count == 3 and sorted(party.party_id for party in listed.parties) == names


# What docs/evidence.md says, by another implementation.


def _text(text):
    return struct.pack(">I", len(text.encode())) + text.encode()


def _slot(session, it, broadcast):
    return (
        _text(session)
        + struct.pack(">i", it.round_number)
        + _text(it.message_type)
        + _text(it.sender)
        + _text(it.message_id)
        + bytes([broadcast])
        + it.payload_sha256
    )


def _signed(key, purpose, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, b"\0pillarbox" + purpose + b"\0" + message)
    except InvalidSignature:
        return False
    return True


def evidence(node, _):
    alice, bob = (Party(node, f"party:{name}", name) for name in ("alice", "bob"))
    messages = bob.subscribe("vault")
    for payload in (b"one", b"one", b"two"):
        until(lambda payload=payload: _said(alice, payload), "bob has subscribed")
    assert [next(messages).payload for _ in range(3)] == [b"one", b"one", b"two"], "all of them are delivered"

    transcript = bob.look("Transcript", sessions.TranscriptRequest(session_id="vault"))
    link = bytes(32)
    for slot in transcript.slots:
        assert slot.before == link
        link = hashlib.sha256(link + _slot("vault", slot, slot.broadcast)).digest()
        assert slot.link == link and slot.equivocation
    head = transcript.head
    assert (head.position, head.link, head.key) == (3, link, node.key)
    assert _signed(node.key, b"transcript", _text("vault") + struct.pack(">Q", 3) + link, head.signature)

    request = sessions.EvidenceRequest(session_id="vault", round_number=1, message_type="round", sender="alice")
    answer = bob.look("Evidence", request)
    digests = sorted(record.payload_sha256 for record in answer.records)
    assert digests == sorted(hashlib.sha256(payload).digest() for payload in (b"one", b"one", b"two"))
    assert answer.equivocation
    for record in answer.records:
        signed = _slot(record.session_id, record, True)
        assert record.sender == f"alice@{node.server_id}"
        assert _signed(node.key, b"broadcast", signed, record.signature)
        assert not _signed(node.key, b"broadcast", signed + b"x", record.signature)
        assert not _signed(node.key, b"transcript", signed, record.signature)

    [view] = [next(bob.look("Watch", sessions.WatchRequest(session_id="vault")))]
    assert view.whole and view.messages == 3
    assert [(it.round_number, it.message_type, it.sender) for it in view.equivocations] == [
        (1, "round", f"alice@{node.server_id}")
    ]
    assert [line["session_id"] for line in node.run("mpc", "list")] == ["vault"]
    mallory = Party(node, "party:mallory", "mallory")
    refused(grpc.StatusCode.PERMISSION_DENIED, mallory.look, "Evidence", request)


def _said(alice, payload):
    """Whether a broadcast found somebody to go to."""
    try:
        return alice.route("vault", [], payload)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        return None
