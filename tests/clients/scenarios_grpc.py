"""Scenarios with a stock homeserver that speaks gRPC.

Each takes the node and the directory of certificates, and fails by raising.
"""

import base64
import re

import grpc
from cryptography.hazmat.primitives.asymmetric import ed25519

import contract
from grpc_peer import SMALL_WINDOW, Client, Server, every_form, refused
from homeserver import Homeserver, running
from link import Link
from node import as_printed, until

MIB = 1 << 20
EVENT_MAX = 64 * 1024


def every_kind(user):
    return [
        contract.added(user, 2**63 + 1),
        contract.invited(user, 7, "wel come/ä✉"),
        contract.rejected(user, 3, "no thanks"),
        contract.removed(user, 2**63 + 1),
    ]


def many(count, size, first_user=1):
    """Events of about `size` bytes, with a small one in every eight."""
    for user in range(first_user, first_user + count):
        yield contract.invited(user, 1, "x" * size) if user % 8 else contract.added(user, 1)


def met(node, home):
    """Makes the two acquainted: the node has pulled the peer and knows its key."""
    node.add(home.server_id)
    home.wait_for_pulls(1)
    return node.wait(home.server_id, kind="stock", state="live", outbound_error="")


def away(node, home, server):
    """The peer goes away and the node has noticed: an event waits for it."""
    # What was pushed is settled: else an answer may break off, and it comes again.
    node.wait(home.server_id, state="live", queued=0)
    server.stop()
    event = contract.added(1, 1)
    node.send(home.server_id, event)
    node.wait(home.server_id, state="queued", queued=1)
    return event


def contract_is_stock(arguments):
    with open(arguments.golden, encoding="utf-8") as file:
        golden = {line.rstrip("\n") for line in file if re.match(r"\w+ protocol\.", line)}
    compiled = contract.lines()
    assert compiled == golden, f"not alike: {sorted(compiled ^ golden)}"


def pushed_to_peer(node, certificates):
    home = Homeserver(node)
    with running(Server(home, certificates)):
        detail = met(node, home)
        assert (detail["transport"], detail["key_origin"]) == ("grpc", "learnt"), detail
        sent = [event for user in range(1, 6) for event in every_kind(user)]
        for event in sent:
            node.send(home.server_id, event)
        assert home.wait_for_pushes(len(sent)) == sent
        node.wait(home.server_id, state="live", queued=0)
        with Client(home, node) as client:
            assert client.auth.Key(contract.auth.KeyRequest()).key == node.key
            # Its own calls carry plain tokens, and the operator is told.
            assert client.pull() == []
            assert node.show(home.server_id)["tokens"] == "plain"
    assert not home.faults and home.pushed == sent


def drained(node, certificates):
    home = Homeserver(node)
    server = Server(home, certificates)
    with running(server), Client(home, node) as client:
        met(node, home)
        node.send(home.server_id, contract.added(9, 9))
        before = home.wait_for_pushes(1)
        sent = [away(node, home, server)]
        server.start()
        for event in many(200, EVENT_MAX - 2048):
            node.send(home.server_id, event)
            sent.append(event)
        assert node.show(home.server_id)["queued_bytes"] > 10 * MIB
        # It is there again, but nothing is pushed before it has pulled all.
        home.wait_for_pulls(home.pulls + 1)
        assert home.pushed == before
        pulled, pages = [], 0
        # A token that was used is as good as a new one: the contract's names no request.
        forms = every_form(home.token())
        while page := client.pull(forms[pages % len(forms)]):
            assert sum(event.ByteSize() for event in page) <= MIB, f"page {pages}"
            pulled += page
            pages += 1
            assert home.pushed == before and len(pulled) <= len(sent), "a page is given twice"
        assert pulled == sent, f"{len(pulled)} of {len(sent)} events, or not in order"
        assert pages >= 10, pages
        node.wait(home.server_id, state="live", queued=0)
        after = list(many(10, 100, first_user=1000))
        for event in after:
            node.send(home.server_id, event)
        assert home.wait_for_pushes(1 + len(after)) == before + after
        node.wait(home.server_id, state="live", queued=0)
        assert client.pull() == []
    assert not home.faults and home.pushed == before + after


def queued(node, home, server, count=3, size=12_000):
    """Rows that wait for the peer, which is there again, larger in all than 30 kB."""
    sent = [away(node, home, server)]
    server.start()
    for user in range(count):
        event = contract.invited(user, 1, "x" * size)
        node.send(home.server_id, event)
        sent.append(event)
    node.wait(home.server_id, queued=len(sent))
    return sent


def unsettled(node, certificates):
    """The node's `stock_settle` is a minute: nothing settles by waiting."""
    home = Homeserver(node)
    server = Server(home, certificates)
    with running(server):
        met(node, home)
        # A connection that was cut with the answer on it.
        sent = queued(node, home, server)
        link = Link(node)
        with Client(home, node, link.port) as client:
            client.ready()
            link.stop_back()
            call = client.pull_later()
            link.wait_for_bytes(30_000)
            link.cut()
            assert call.exception() is not None
        link.close()
        # A call that was given up, on a connection that lives on.
        link = Link(node)
        with Client(home, node, link.port) as client:
            client.ready()
            link.stop_back()
            call = client.pull_later()
            link.wait_for_bytes(30_000)
            assert call.cancel()
            link.open_back()
            assert client.pull() == sent, "a Pull that was given up settles nothing"
            link.stop_back()
            link.cut()
        link.close()
        # Two connections: what is unsettled on one is given on the other.
        with Client(home, node) as one, Client(home, node) as other:
            one.ready(), other.ready()
            assert one.pull() == sent
            assert other.pull() == sent
            assert node.show(home.server_id)["queued"] == len(sent)
            # The next question on a connection says that the answer before it came.
            assert other.pull() == []
            node.wait(home.server_id, state="live", queued=0)
        # A channel that is closed once the answer was read. Where grpcio leaves
        # bytes unread its system resets the connection: then they come again.
        sent = queued(node, home, server)
        with Client(home, node) as client:
            assert client.pull() == sent
        with Client(home, node) as client:
            again = client.pull()
            assert again in ([], sent), again
            assert client.pull() == []
        node.wait(home.server_id, state="live", queued=0)
        node.send(home.server_id, contract.added(5, 5))
        assert home.wait_for_pushes(1) == [contract.added(5, 5)]
    assert not home.faults and len(home.pushed) == 1


def two_at_once(node, certificates):
    """A second Pull on the connection before the answer to the first could be
    written: it proves nothing."""
    home = Homeserver(node)
    server = Server(home, certificates)
    with running(server):
        met(node, home)
        # Far more than the client's window, so that it cannot be written whole.
        sent = queued(node, home, server, count=12, size=50_000)
        link = Link(node)
        with Client(home, node, link.port, SMALL_WINDOW) as client:
            client.ready()
            link.stop_back()
            first = client.pull_later()
            link.wait_for_bytes(30_000)
            heard = node.show(home.server_id)["inbound_ok_at"]
            second = client.pull_later()
            until(lambda: node.show(home.server_id)["inbound_ok_at"] > heard, "the second Pull")
            link.cut()
            assert first.exception() is not None and second.exception() is not None
        link.close()
        with Client(home, node) as client:
            assert client.pull() == sent
            assert client.pull() == []
        node.wait(home.server_id, state="live", queued=0)
    assert not home.faults and not home.pushed


def settled_by_time(node, certificates):
    """The node's `stock_settle` is short, and the connection lives on in silence."""
    home = Homeserver(node)
    server = Server(home, certificates)
    with running(server):
        met(node, home)
        sent = queued(node, home, server)
        with Client(home, node) as client:
            assert client.pull() == sent
            node.wait(home.server_id, state="live", queued=0)
            node.send(home.server_id, contract.added(5, 5))
            assert home.wait_for_pushes(1) == [contract.added(5, 5)]
            assert client.pull() == []
    assert not home.faults and len(home.pushed) == 1


def pushed_by_peer(node, certificates):
    home = Homeserver(node)
    with running(Server(home, certificates)), Client(home, node) as client:
        met(node, home)
        sent, unknown = [], contract.of_a_later_version()
        for user, form in enumerate(every_form(home.token())):
            for event in every_kind(user):
                client.push(event, form)
                sent.append(event)
        # What the node does not know blocks nothing.
        client.push(unknown)
        largest = contract.invited(1, 1, "x" * (EVENT_MAX - 12))
        assert largest.ByteSize() == EVENT_MAX, largest.ByteSize()
        client.push(largest)
        sent.append(largest)
        # Two honest ones are identical, and both count.
        client.push(contract.added(77, 77))
        client.push(contract.added(77, 77))
        sent += [contract.added(77, 77)] * 2
        expected = [(home.server_id, as_printed(event)) for event in sent]
        assert node.received(len(sent)) == expected
        [letter] = node.dead()
        assert (letter["direction"], letter["reason"]) == ("inbound", "unknown_kind"), letter
        assert letter["body"] == {"raw": _base64(unknown)}, letter


def pulled_from_peer(node, certificates):
    home = Homeserver(node)
    unknown = contract.of_a_later_version()
    first = every_kind(1) + [unknown, contract.sync.Event()] + every_kind(2)
    home.queue = list(first)
    with running(Server(home, certificates)), Client(home, node) as client:
        met(node, home)
        applied = every_kind(1) + every_kind(2)
        node.received(len(applied))
        # One answer of more than 10 MiB, and pushes while the node waits for it.
        large = list(many(200, EVENT_MAX - 2048))
        assert sum(event.ByteSize() for event in large) > 10 * MIB
        home.may_answer.clear()
        home.wait_for_pulls(home.pulls + 1)
        home.queue = list(large)
        # One waits for the end of the Pull, because the queue holds older events; more are not taken.
        pushes = [client.push_later(contract.added(user, 5)) for user in (5001, 5002)]
        assert wait_for_one(pushes).code() == grpc.StatusCode.UNAVAILABLE
        home.may_answer.set()
        taken = [push for push in pushes if push.exception() is None]
        assert len(taken) == 1
        after = contract.added([5001, 5002][pushes.index(taken[0])], 5)
        applied += large + [after]
        expected = [(home.server_id, as_printed(event)) for event in applied]
        assert node.received(len(applied)) == expected
        letters = node.dead()
        assert [letter["reason"] for letter in letters] == ["unknown_kind", "malformed"], letters
        # Each was asked for once: nothing more is in the log when the next one comes.
        client.push(contract.added(6000, 6))
        expected.append((home.server_id, as_printed(contract.added(6000, 6))))
        assert node.received(len(expected)) == expected
    assert not home.faults and not home.queue


def wait_for_one(calls):
    """The first of them that ends."""
    return until(lambda: next((call for call in calls if call.done()), None), "one call ends")


def refusals(node, certificates):
    home = Homeserver(node)
    code = grpc.StatusCode
    event = contract.added(1, 1)
    with running(Server(home, certificates)), Client(home, node) as client:
        met(node, home)

        def push_with(token):
            return lambda: client.push(event, [("authorization-bin", token)])

        text = refused(lambda: client.push(event, []), code.UNAUTHENTICATED)
        assert "authorization" in text, text
        for nonsense in ("", "Bearer", "no token", "ff", "A" * 5000):
            refused(lambda: client.push(event, [("authorization", nonsense)]), code.UNAUTHENTICATED)
        for shift, side in ((-3600, "behind"), (3600, "ahead")):
            text = refused(push_with(home.token(shift=shift)), code.UNAUTHENTICATED)
            seconds = re.search(rf"(\d+) s {side}", text)
            assert seconds and 3600 - 60 < int(seconds[1]) < 3600 + 60, text
        client.push(event, [("authorization-bin", home.token(shift=-50))])
        text = refused(push_with(home.token(server_id="stranger.example:7443")), code.PERMISSION_DENIED)
        assert "stranger.example:7443" in text, text
        other = ed25519.Ed25519PrivateKey.generate()
        refused(push_with(home.token(key=other)), code.UNAUTHENTICATED)
        # What is wrong with the event, in words.
        for empty in (None, contract.sync.Event()):
            text = refused(lambda: client.push(empty), code.INVALID_ARGUMENT)
            assert "event" in text and "empty" in text, text
        text = refused(lambda: client.push(contract.invited(1, 1, "x" * EVENT_MAX)), code.INVALID_ARGUMENT)
        assert str(EVENT_MAX) in text, text
        large = contract.invited(1, 1, "x" * 60_000)
        gzip = grpc.Compression.Gzip
        text = refused(lambda: client.push(large, compression=gzip), code.UNIMPLEMENTED)
        assert "gzip" in text, text
        # After all that the same connection still serves.
        client.push(large)
        expected = [(home.server_id, as_printed(it)) for it in (event, large)]
        assert node.received(2) == expected
        assert node.dead() == []


def new_key(node, certificates):
    """A key that was learnt gives way to what a verified channel shows."""
    home = Homeserver(node)
    with running(Server(home, certificates)), Client(home, node) as client:
        met(node, home)
        client.push(contract.added(1, 1))
        home.new_key()
        client.push(contract.added(2, 1))
        client.push(contract.added(3, 1))
        expected = [(home.server_id, as_printed(contract.added(user, 1))) for user in (1, 2, 3)]
        assert node.received(3) == expected


def told_new_id(node, certificates):
    """The node is renamed: each peer hears of it, before anything else and under
    the id it knows. One is there, the other comes back later."""
    home, late = Homeserver(node), Homeserver(node)
    late_server = Server(late, certificates)
    with running(Server(home, certificates)), running(late_server):
        for it in (home, late):
            met(node, it)
            node.send(it.server_id, contract.added(1, 1))
            it.wait_for_pushes(1)
        waiting = [away(node, late, late_server), contract.added(2, 1)]
        old, new = node.server_id, f"127.0.0.1:{node.port}"
        node.run("server", "rename", new)
        node.send(home.server_id, contract.added(2, 1))
        node.send(late.server_id, contract.added(2, 1))
        # Its token names the new id; one that names the old id would have been a fault.
        assert home.wait_for_pushes(2)[1] == contract.added(2, 1)
        assert home.told == [new] and home.node_id == new
        assert node.wait(home.server_id, known_as="", state="live", queued=0)
        # What it was told is true: there it finds the key it knows.
        with Client(home, node, name="127.0.0.1") as client:
            assert client.auth.Key(contract.auth.KeyRequest()).key == node.key
        # Nothing is given under an id that the peer has not heard of.
        with Client(late, node) as client:
            assert client.pull() == []
            shown = node.show(late.server_id)
            assert (shown["queued"], shown["known_as"]) == (2, old), shown
            late_server.start()
            node.wait(late.server_id, known_as="")
            assert late.told == [new]
            assert client.pull() == waiting
            assert client.pull() == []
        node.wait(late.server_id, state="live", queued=0)
        node.send(late.server_id, contract.added(3, 1))
        assert late.wait_for_pushes(2)[1] == contract.added(3, 1)
    assert not home.faults and not late.faults
    assert home.told == [new] and late.told == [new]


def was_taken(call):
    """False: the node asks for patience."""
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
        return False
    return True


def tells_new_id(node, certificates):
    """The peer is renamed: the node follows it once a token names the new id."""
    home, other = Homeserver(node), Homeserver(node)
    before = Server(home, certificates)
    with running(before), running(Server(other, certificates)), Client(home, node) as client:
        met(node, home)
        client.push(contract.added(1, 1))
        node.send(home.server_id, contract.added(1, 1))
        home.wait_for_pushes(1)
        code = grpc.StatusCode
        # Somebody else answers there.
        old = home.server_id
        text = refused(lambda: client.notify_new_id(other.server_id, old), code.PERMISSION_DENIED)
        assert other.server_id in text and "another key" in text, text
        assert node.show(old)["next_id"] == ""
        assert home.move() == old
        with running(Server(home, certificates)):
            # A token that names the new id means nothing before the old one has said so.
            refused(lambda: client.push(contract.added(9, 9)), code.PERMISSION_DENIED)
            # An address makes the node look up one key a second.
            until(lambda: was_taken(lambda: client.notify_new_id(home.server_id, old)), "the new id is taken")
            shown = node.show(old)
            assert (shown["server_id"], shown["next_id"]) == (old, home.server_id), shown
            client.push(contract.added(2, 1))
            shown = node.show(home.server_id)
            assert (shown["server_id"], shown["former_ids"], shown["next_id"]) == (home.server_id, [old], ""), shown
            # It is the same peer, what came before too.
            expected = [(home.server_id, as_printed(contract.added(user, 1))) for user in (1, 2)]
            assert node.received(2) == expected
            # From now on it is called where it is now, by whichever name.
            before.stop()
            node.send(old, contract.added(2, 1))
            node.send(home.server_id, contract.added(3, 1))
            assert home.wait_for_pushes(3) == [contract.added(user, 1) for user in (1, 2, 3)]
            node.wait(home.server_id, state="live", queued=0)
            assert [it["peer"]["server_id"] for it in node.run("peer", "list")] == [home.server_id]
    assert not home.faults and not other.faults and not other.pushed


def _base64(event):
    return base64.b64encode(event.SerializeToString()).decode()
