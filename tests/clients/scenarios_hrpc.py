"""Scenarios with a stock homeserver that speaks hRPC, over HTTP/1.1 unless they say so.

Each takes the node and the directory of certificates, and fails by raising.
"""

import time

import contract
import grpc_peer
import hrpc_h2
from homeserver import Homeserver, running
from hrpc_peer import KEY, PULL, PUSH, Client, Error, Server
from node import as_printed, until
from scenarios_grpc import EVENT_MAX, MIB, away, every_kind, many, met, queued


def hrpc_delivers(node, certificates):
    home = Homeserver(node)
    home.queue = every_kind(1)
    with running(Server(home, certificates)) as server:
        detail = met(node, home)
        assert (detail["transport"], detail["kind"]) == ("hrpc", "stock"), detail
        # Which protocol it is was found out by Key, before anything else was called.
        assert server.called[0] == KEY and PUSH not in server.called, server.called
        sent = [event for user in range(1, 4) for event in every_kind(user)]
        for event in sent:
            node.send(home.server_id, event)
        assert home.wait_for_pushes(len(sent)) == sent
        node.wait(home.server_id, state="live", queued=0)
        # What it had waiting was pulled.
        assert node.received(4) == [(home.server_id, as_printed(event)) for event in every_kind(1)]
        home.queue = large = list(many(200, EVENT_MAX - 2048))
        assert sum(event.ByteSize() for event in large) > 10 * MIB
        expected = [(home.server_id, as_printed(event)) for event in every_kind(1) + large]
        assert node.received(len(expected)) == expected
    assert not home.faults and home.pushed == sent


def hrpc_errors_of_peer(node, certificates):
    home = Homeserver(node)
    with running(Server(home, certificates)) as server:
        met(node, home)
        # A server that says when it will have time is not asked before.
        server.errors = [Error(429, "hrpc.resource-exhausted", "slowly", retry_after=50)]
        before = int(time.time() * 1000)
        node.send(home.server_id, contract.added(1, 1))
        detail = node.wait(home.server_id, state="retrying")
        assert detail["next_attempt_at"] >= before + 49_000, detail
        assert "slowly" in detail["outbound_error"], detail
        assert home.pushed == []
        node.run("peer", "retry", home.server_id)
        assert home.wait_for_pushes(1) == [contract.added(1, 1)]
        node.wait(home.server_id, state="live", queued=0)
        # What passes is tried again.
        server.errors = [Error(500, "hrpc.internal-server-error", "can't get host key")]
        node.send(home.server_id, contract.added(2, 1))
        assert home.wait_for_pushes(2)[1:] == [contract.added(2, 1)]
        # What no retry cures is not: the queue waits for a Pull.
        server.errors = [Error(400, "h.bad-auth", "who are you")]
        calls = server.called.count(PUSH)
        node.send(home.server_id, contract.added(3, 1))
        detail = node.wait(home.server_id, state="queued", queued=1)
        assert server.called.count(PUSH) == calls + 1, server.called
        with Client(home, node, chunked=True) as client:
            assert client.pull() == [contract.added(3, 1)]
            assert client.pull() == []
        node.wait(home.server_id, state="live", queued=0)
        node.send(home.server_id, contract.added(4, 1))
        assert home.wait_for_pushes(3)[2:] == [contract.added(4, 1)]
    assert not home.faults


def hrpc_drained(node, certificates):
    """The node's `stock_settle` is a minute: nothing settles by waiting."""
    home = Homeserver(node)
    with running(Server(home, certificates)) as server:
        met(node, home)
        # A connection that was cut with the answer on it.
        sent = queued(node, home, server)
        for chunked in (True, False):
            Client(home, node, chunked).ask_and_cut(30_000)
        with Client(home, node, chunked=True) as one, Client(home, node, chunked=False) as other:
            assert one.pull() == sent
            assert other.pull() == sent
            assert other.pull() == []
        node.wait(home.server_id, state="live", queued=0)
        # Pages, on one connection.
        sent = [away(node, home, server)]
        server.start()
        for event in many(30, EVENT_MAX - 2048):
            node.send(home.server_id, event)
            sent.append(event)
        pulled, pages = [], 0
        with Client(home, node, chunked=True) as client:
            while page := client.pull():
                assert sum(event.ByteSize() for event in page) <= MIB
                pulled += page
                pages += 1
                assert len(pulled) <= len(sent), "a page is given twice"
        assert pulled == sent and pages >= 2, (len(pulled), pages)
        node.wait(home.server_id, state="live", queued=0)
        # A connection that is closed after the answer was read.
        sent = queued(node, home, server)
        with Client(home, node, chunked=False) as client:
            assert client.pull() == sent
        node.wait(home.server_id, state="live", queued=0)
        node.send(home.server_id, contract.added(4, 1))
        assert home.wait_for_pushes(1) == [contract.added(4, 1)]
    assert not home.faults


def hrpc_client(node, certificates):
    home = Homeserver(node)
    sent = []
    with running(Server(home, certificates)):
        met(node, home)
        for chunked in (True, False):
            with Client(home, node, chunked) as client:
                assert client.key() == node.key
                for event in every_kind(1 + chunked) + [contract.invited(1, 1, "x" * 60_000)]:
                    client.push(event).message(contract.sync.PushResponse)
                    sent.append(event)
                assert client.pull() == []
                # An unknown kind blocks nothing.
                client.push(contract.of_a_later_version()).message(contract.sync.PushResponse)
                _refusals(home, client)
                # After all that the same connection still serves.
                assert client.key() == node.key
    assert node.received(len(sent)) == [(home.server_id, as_printed(event)) for event in sent]
    assert [letter["reason"] for letter in node.dead()] == ["unknown_kind"] * 2
    assert not home.faults


def hrpc_over_http2(node, certificates):
    home = Homeserver(node)
    server = Server(home, certificates)
    sent = []
    with running(server):
        met(node, home)
        with hrpc_h2.Client(home, node) as client:
            assert client.key() == node.key
            for event in every_kind(1) + [contract.invited(1, 1, "x" * 60_000)]:
                client.push(event).message(contract.sync.PushResponse)
                sent.append(event)
            # Side by side on one connection.
            request = contract.sync.PushRequest(event=contract.added(3, 1)).SerializeToString()
            streams = [client.begin(KEY), client.begin(PUSH, request, authorization=home.header()), client.begin(KEY)]
            first, second, third = [client.end(stream) for stream in reversed(streams)][::-1]
            second.message(contract.sync.PushResponse)
            sent.append(contract.added(3, 1))
            for answer in (first, third):
                assert answer.message(contract.auth.KeyResponse).key == node.key
            _refusals(home, client)
            # After all that the same connection still serves: more than its window holds.
            waiting = queued(node, home, server, count=12, size=50_000)
            assert client.pull() == waiting
            assert client.pull() == []
            node.wait(home.server_id, state="live", queued=0)
    assert node.received(len(sent)) == [(home.server_id, as_printed(event)) for event in sent]
    assert not home.faults


def _refusals(home, client):
    request = contract.sync.PushRequest(event=contract.added(1, 1)).SerializeToString()
    empty = contract.sync.PushRequest(event=contract.sync.Event()).SerializeToString()
    header = home.header()
    stranger = home.token(server_id="stranger.example:7443").hex()
    late = home.token(shift=-3600).hex()
    bad = "hrpc.http.bad-unary-request"
    for what, arguments, status, identifier in [
        ("no token", {"path": PUSH, "message": request}, 400, "h.bad-auth"),
        ("no token to Pull", {"path": PULL}, 400, "h.bad-auth"),
        ("an old token", {"path": PULL, "authorization": late}, 400, "h.bad-auth"),
        ("a stranger", {"path": PULL, "authorization": stranger}, 403, "h.host-not-allowed"),
        (
            "an empty event",
            {"path": PUSH, "message": empty, "authorization": header},
            400,
            "pillarbox.invalid-argument",
        ),
        ("no such method", {"path": "/protocol.sync.v1.PostboxService/Fly"}, 404, "hrpc.not-found"),
        ("no such service", {"path": "/nobody.v1.Nothing/Do"}, 404, "hrpc.not-found"),
        ("another method of HTTP", {"path": KEY, "method": "PUT"}, 400, bad),
        ("JSON", {"path": KEY, "content_type": "application/json"}, 400, bad),
        ("a compressed body", {"path": KEY, "content_encoding": "gzip"}, 400, bad),
        (
            "not a protobuf message",
            {"path": PUSH, "message": b"\xff\xff", "authorization": header},
            400,
            "pillarbox.invalid-argument",
        ),
    ]:
        answer = client.call(**arguments)
        error = answer.error()
        assert (answer.status, error.identifier) == (status, identifier), (what, answer.status, error)
        assert error.human_message, what
    # A parameter of the content type means nothing.
    assert client.call(KEY, content_type="Application/hRPC; charset=utf-8").status == 200


def changes_its_protocol(node, certificates):
    """The peer speaks another protocol after each outage."""
    home = Homeserver(node)
    servers = [grpc_peer.Server(home, certificates), Server(home, certificates)]
    spoken = ["grpc", "hrpc"]
    delivered = []
    for turn in range(3):
        event = contract.added(turn, 1)
        with running(servers[turn % 2]):
            if turn == 0:
                met(node, home)
            node.send(home.server_id, event)
            delivered.append(event)

            def arrived():
                # Whatever it speaks now, what waits is taken by a Pull or pushed.
                if node.show(home.server_id)["state"] == "queued":
                    node.run("peer", "retry", home.server_id, "--push")
                return len(home.pushed) == len(delivered)

            until(arrived, f"{event} in turn {turn}")
            node.wait(home.server_id, state="live", queued=0, transport=spoken[turn % 2])
    assert home.pushed == delivered and not home.faults
