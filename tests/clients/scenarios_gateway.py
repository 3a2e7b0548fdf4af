"""Scenarios with a gateway before the node: its envelopes, and its page in a browser."""

import base64
import os
import struct
import tempfile

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway import Backend, Gateway
from node import PATIENCE, until


def _verified(envelope, key):
    """As docs/gateway.md has it."""
    payload = envelope["payload"].encode() if "payload" in envelope else base64.b64decode(envelope["payload_base64"])
    names = ("gateway", "cursor", "user_id", "device_session_id", "kind")
    parts = [envelope[name].encode() for name in names] + [payload]
    parts += [envelope[name].encode() for name in ("event_id", "request_id", "trace_id")]
    signed = b"\x00pillarboxgateway-event\x00" + b"".join(struct.pack(">I", len(part)) + part for part in parts)
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(envelope["signature"]), signed)
    except InvalidSignature:
        return False
    return True


def _ready(gateway):
    until(lambda: gateway.json("/health")[0] == 200, "the gateway subscribes")


def gateway_envelope(node, _):
    with Gateway(node) as gateway:
        _ready(gateway)
        _envelopes(gateway, Backend(node), node)
        gateway.stop()


def _envelopes(gateway, backend, node):
    [alice] = node.run("token", "new", "user:alice")
    events = gateway.events(alice["token"])
    name, _, ready = next(events)
    assert (name, ready["user_id"], ready["device_session_id"]) == ("ready", "alice", alice["id"]), ready
    payload = '{"order": 17, "note": "grüße, \\u0000"}'
    backend.publish("alice", "orders.shipped", payload, "e1")
    name, cursor, envelope = next(events)
    assert (name, cursor, len(cursor)) == ("", envelope["cursor"], 20), envelope
    assert (envelope["gateway"], envelope["user_id"], envelope["kind"]) == ("web", "alice", "orders.shipped"), envelope
    assert (envelope["payload"], envelope["event_id"]) == (payload, "e1"), envelope
    key = base64.b64decode(gateway.json("/key")[1]["key"])
    assert base64.b64encode(key).decode() == gateway.ready["key"] == ready["key"]
    assert _verified(envelope, key)
    for field in ("cursor", "user_id", "kind", "payload", "event_id"):
        assert not _verified({**envelope, field: envelope[field] + " "}, key), field
    moved = {**envelope, "user_id": "alic", "device_session_id": "e"}
    assert not _verified(moved, key)
    # The vector of the document.
    vector = {
        **{"gateway": "web", "cursor": "00000000000000000007", "user_id": "alice", "device_session_id": ""},
        **{"kind": "orders.shipped", "payload": '{"n":"ü"}\n', "event_id": "e1", "request_id": "r", "trace_id": "t"},
        "signature": "HhHjLk+fsXfbTHD07KSIqiKZbPfR77oS7lD0R6ALU7GnPZO1OI6tSig3ahHNZ1utyFhrQWRxELU43lV3vfCrDw==",
    }
    assert _verified(vector, base64.b64decode("6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw="))
    node.run("session", "revoke", "alice", alice["id"])
    name, _, closed = next(events)
    assert (name, closed["reason"]) == ("closed", "revoked"), closed
    assert next(events, None) is None


def _browser(profile):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("PILLARBOX_TEST_CHROMIUM", "/usr/bin/chromium")
    for flag in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", "window-size=900,1100", f"user-data-dir={profile}"),
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = os.environ.get("PILLARBOX_TEST_CHROMEDRIVER", "/usr/bin/chromedriver")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))


class _Page:
    """The page, as somebody sees it who uses it."""

    def __init__(self, browser, url):
        self._browser = browser
        browser.get(url)

    def find(self, selector):
        from selenium.webdriver.common.by import By

        return self._browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return " ".join(element.text for element in self.find(selector) if element.is_displayed())

    def log_in(self, token):
        [field] = self.find("#token")
        field.clear()
        field.send_keys(token)
        [button] = self.find("#enter")
        button.click()

    def shows(self, selector, text):
        try:
            until(lambda: text in self.text(selector), f"{text!r} at {selector}")
        except AssertionError as error:
            raise AssertionError(f"{error}; there is {self.text('body')!r}; {self._browser.get_log('browser')}") from None

    def picture(self, name):
        directory = os.environ.get("PILLARBOX_TEST_PICTURES")
        if directory:
            self._browser.save_screenshot(os.path.join(directory, f"{name}.png"))


def gateway_page(node, _):
    with Gateway(node) as gateway, tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        _ready(gateway)
        browser = _browser(profile)
        try:
            browser.set_page_load_timeout(PATIENCE)
            _play(browser, gateway, Backend(node), node)
        finally:
            browser.quit()
        gateway.stop()


def _play(browser, gateway, backend, node):
    [alice] = node.run("token", "new", "user:alice")
    page = _Page(browser, gateway.url)
    page.shows("footer", gateway.ready["key"])
    page.picture("login")
    page.log_in("pbt_nobodys")
    page.shows("#notice", "That token is not valid")
    page.picture("refused")
    page.log_in(alice["token"])
    page.shows("#state", "live")
    page.shows("#who", "alice")
    assert not page.text("#login") and not page.text("#notice")
    backend.publish("alice", "orders.shipped", '{"order": 17, "note": "<b>grüße</b>"}', "e1")
    backend.publish("bob", "orders.shipped", '{"order": 18}', "e2")
    backend.publish("alice", "orders.paid", '{"order": 17, "paid": {"amount": 12.5, "currency": "EUR"}}', "e3")
    page.shows("#list", "orders.shipped")
    page.shows("#list", '"<b>grüße</b>"')
    page.shows("#list", "orders.paid")
    page.shows("#list", "signature verified")
    assert "wrong signature" not in page.text("#list")
    assert "18" not in page.text("#list pre"), "what is for others is not shown"
    page.picture("events")
    # The token is nowhere but in the memory of the page.
    kept = browser.execute_script(
        "return [location.href, document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage),"
        " document.documentElement.outerHTML].join(' ')"
    )
    assert alice["token"] not in kept
    node.run("session", "revoke", "alice", alice["id"])
    page.shows("#notice", "You were cut off")
    page.shows("#state", "cut off")
    page.picture("cut-off")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    page.picture("cut-off-dark")
    assert page.text("#login"), "another token may be given"
    assert "orders.paid" in page.text("#list"), "what was seen stays"
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name).join(' ')")
    assert "/events" in asked and "token" not in asked, asked
    page.log_in(alice["token"])
    page.shows("#notice", "That token is not valid")
    [again] = node.run("token", "new", "user:alice")
    page.log_in(again["token"])
    page.shows("#state", "live")
    backend.publish("alice", "orders.returned", '{"order": 17}', "e4")
    page.shows("#list", "orders.returned")
    # It comes back by itself, and misses nothing.
    gateway.kill()
    page.shows("#state", "reconnecting")
    backend.publish("alice", "orders.refunded", '{"order": 17}', "e5")
    gateway.start_again()
    page.shows("#state", "live")
    page.shows("#list", "orders.refunded")
    backend.publish("alice", "orders.closed", '{"order": 17}', "e6")
    page.shows("#list", "orders.closed")
    shown = [element.get_attribute("data-event") for element in page.find("#list li")]
    assert shown == ["e6", "e5", "e4", "e3", "e1"], shown
    _by_other_means(browser, backend, again["token"])
    # The policy let everything run that should, and only the refusals were complained of.
    said = [line["message"] for line in browser.get_log("browser")]
    known = ("401", "ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "503")
    complaints = [line for line in said if not any(part in line for part in known)]
    assert not complaints, complaints


# What the browser itself has for streams; both can show a token in the address only.
_SOURCE = """
const source = new EventSource("/events?token=" + arguments[0]);
source.addEventListener("ready", () => { window.began = true; });
source.onmessage = event => { source.close(); window.got = [event.lastEventId, JSON.parse(event.data).event_id]; };
"""
_SOCKET = """
const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws?token=" + arguments[0]);
socket.onmessage = event => {
  const message = JSON.parse(event.data);
  if (message.type === "ready") window.began = true;
  if (message.type === "event") { socket.close(); window.got = [message.id, message.envelope.event_id]; }
};
"""


def _by_other_means(browser, backend, token):
    for name, script in (("source", _SOURCE), ("socket", _SOCKET)):
        browser.execute_script("window.began = false; window.got = null;" + script, token)
        until(lambda: browser.execute_script("return window.began"), f"the {name} begins")
        backend.publish("alice", "orders.noted", "{}", f"by-{name}")
        cursor, event = until(lambda: browser.execute_script("return window.got"), f"the {name} gets an event")
        assert (event, len(cursor)) == (f"by-{name}", 20), (event, cursor)
