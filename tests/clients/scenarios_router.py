"""Scenarios with MPC parties that speak the router's contract by grpcio."""

import threading

import grpc

import contract
from node import PATIENCE, until

pb = contract.router


class Party:
    """A party, or (without a name) a service, with a connection of its own."""

    def __init__(self, node, principal, name=""):
        [made] = node.run("token", "new", principal)
        self.name = name
        self._metadata = (("authorization", f"Bearer {made['token']}"),)
        credentials = grpc.ssl_channel_credentials(node.certificate.read_bytes())
        channel = grpc.secure_channel(f"localhost:{node.port}", credentials)
        self._stub = contract.router_grpc.MessageRouterStub(channel)

    def call(self, method, request, *metadata):
        return getattr(self._stub, method)(request, timeout=PATIENCE, metadata=self._metadata + metadata)

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
