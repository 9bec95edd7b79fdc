"""Which origins may connect: by examples, and by what holds for all of them."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashws_async.origins import DEFAULT_PORTS, find_fault, parse_allowed_origins, parse_origin

ALLOWED = parse_allowed_origins(["https://friend.example", "capacitor://localhost"])


def may_connect(origin, host, secure=False, allowed=ALLOWED):
    return find_fault([origin], [host], secure, allowed) is None


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://app.example", "app.example"),
        ("http://app.example:8050", "app.example:8050"),
        ("HTTP://App.Example", "aPP.eXAMPLE"),
        ("http://app.example:80", "app.example"),
        ("http://app.example", "app.example:80"),
        ("http://127.0.0.1:8050", "127.0.0.1:8050"),
        ("http://[::1]:8050", "[::1]:8050"),
        ("http://[2001:DB8::1]", "[2001:db8:0::1]"),
        ("http://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("http://app.example.", "app.example."),
        ("http://my_host", "my_host"),
        # a proxy in front speaks TLS to the browser, and http to us
        ("https://app.example", "app.example"),
        ("https://app.example", "app.example:443"),
        ("https://app.example:8443", "app.example:8443"),
    ],
)
def test_a_page_of_this_host_may_connect(origin, host):
    assert may_connect(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "app.example"),
        ("http://app.example.evil.example", "app.example"),
        ("http://evil-app.example", "app.example"),
        ("http://sub.app.example", "app.example"),
        ("http://app.example:8051", "app.example:8050"),
        ("http://app.example", "app.example:8050"),
        ("http://app.example", "app.example:443"),
        ("https://app.example", "app.example:80"),
        ("https://app.example:80", "app.example"),
        ("http://app.example", "app.example."),  # to a browser these are two sites
        ("http://app.example@evil.example", "app.example"),
        ("http://evil.example@app.example", "app.example"),
        ("http://app.example/path", "app.example"),
        ("http://app.example/", "app.example"),
        ("http://app.example?query", "app.example"),
        ("http://app.example#hash", "app.example"),
        ("http://app.example http://evil.example", "app.example"),
        ("http://app.example\t", "app.example"),
        ("http://app.example:", "app.example"),
        ("http://app.example:99999", "app.example:99999"),
        ("http://app.example:٨٠", "app.example"),
        ("http://app.example:+80", "app.example"),
        ("http://\u212aapp.example", "kapp.example"),  # the Kelvin sign's lower case is k
        ("http://[::1%25eth0]", "[::1%25eth0]"),
        ("http://[::zz]", "[::zz]"),
        ("http://", ""),
        ("//app.example", "app.example"),
        ("app.example", "app.example"),
        ("ftp://app.example", "app.example"),
        ("ws://app.example", "app.example"),
        ("file://", ""),
        ("chrome-extension://app.example", "app.example"),
        ("null", "null"),
        ("", "app.example"),
        ("https://[", "["),
        ("http://app.example", ""),
        ("http://app.example", "app.example, app.example"),
        ("http://app.example", "user@app.example"),
    ],
)
def test_any_other_page_may_not(origin, host):
    assert not may_connect(origin, host)


@pytest.mark.parametrize(
    ("origins", "hosts", "fault"),
    [
        ([], ["a.example"], "Origin header required"),
        ([""], ["a.example"], "Origin header required"),
        (["http://a.example"] * 2, ["a.example"], "Several Origin headers"),
        (["https://friend.example", "http://evil.example"], ["a.example"], "Several"),
        (["http://a.example"], ["a.example", "a.example"], "'a.example, a.example'"),
        (["http://a.example"], [], "is not this host, ''"),
        (["null"], ["a.example"], r"Origin 'null': not scheme://host\[:port\]"),
        (["http://b.example"], ["a.example"], "is not this host, 'a.example'; allow it with Dash"),
    ],
)
def test_a_refusal_says_what_is_wrong(origins, hosts, fault):
    with pytest.raises(ValueError, match=fault):
        raise ValueError(find_fault(origins, hosts, False, ALLOWED))


def test_a_refusal_does_not_repeat_a_header_of_any_length():
    assert len(find_fault(["http://" + "a" * 9999], ["b" * 9999], False, ALLOWED)) < 600
    assert len(find_fault(["!" * 9999], ["b" * 9999], False, ALLOWED)) < 600


@pytest.mark.parametrize("origin", ["https://app.example", "http://app.example"])
def test_who_connects_by_tls_comes_from_a_page_of_https(origin):
    assert may_connect(origin, "app.example", secure=True) is origin.startswith("https:")


@pytest.mark.parametrize("host", ["app.example", "", "friend.example:8050"])
@pytest.mark.parametrize("secure", [True, False])
def test_an_allowed_origin_may_connect_to_any_host(host, secure):
    assert may_connect("https://friend.example", host, secure)
    assert may_connect("capacitor://localhost", host, secure)
    assert not may_connect("http://friend.example", host, secure)
    assert not may_connect("https://friend.example:8443", host, secure)


@pytest.mark.parametrize(
    "entry",
    [
        "https://friend.example",
        "https://friend.example/",
        "HTTPS://Friend.Example",
        "https://friend.example:443",
        "https://friend.example:443/",
    ],
)
def test_an_entry_may_be_written_as_people_write_it(entry):
    assert may_connect(
        "https://friend.example", "app.example", allowed=parse_allowed_origins([entry])
    )


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ("https://a.example", TypeError, "must be a list of origins"),
        (7, TypeError, r"7\): must be a list"),
        ([7], TypeError, r"\[7\]\): an origin is a string"),
        (["*"], ValueError, "no wildcard; list each"),
        (["https://*.example.com"], ValueError, "no wildcard"),
        (["null"], ValueError, "a page of any site"),
        (["a.example"], ValueError, r"'a.example'\]\): not scheme://host\[:port\]"),
        (["//a.example"], ValueError, "not scheme://host"),
        (["https://a.example/path"], ValueError, "has no path"),
        (["https://a.example//"], ValueError, "has no path"),
        (["https://me@a.example"], ValueError, "no user"),
        (["https://a.example:0x1"], ValueError, "not scheme://host"),
        (["https://a.example:65536"], ValueError, "a port above 65535"),
        (["https://bücher.example"], ValueError, r"in ASCII \(xn--...\)"),
        (["wss://a.example"], ValueError, "begins with http or https"),
        (["https://[::1"], ValueError, "not scheme://host"),
        ([""], ValueError, "not scheme://host"),
    ],
)
def test_an_entry_that_can_never_match_is_an_error(entries, error, message):
    with pytest.raises(error, match=rf"Dash\(websocket_allowed_origins=.*{message}"):
        parse_allowed_origins(entries)


def test_all_kinds_of_lists_are_lists():
    one = parse_allowed_origins(["https://a.example"])
    assert parse_allowed_origins(("https://a.example",)) == one
    assert parse_allowed_origins({"https://a.example"}) == one
    assert parse_allowed_origins([]) == frozenset()


# What holds for all of them

labels = st.text(string.ascii_letters + string.digits + "-", min_size=1, max_size=8)
names = st.lists(labels, min_size=1, max_size=3).map(".".join)
addresses = st.ip_addresses(v=6).map(lambda address: f"[{address}]")
hosts = st.one_of(names, st.ip_addresses(v=4).map(str), addresses)
ports = st.none() | st.integers(0, 65535)
schemes = st.sampled_from(["http", "https"])
cases = st.sampled_from([str, str.lower, str.upper])


def with_port(host, port):
    return host if port is None else f"{host}:{port}"


@given(schemes, hosts, ports, cases, cases)
def test_a_page_may_always_connect_to_where_it_came_from(scheme, host, port, case, other):
    origin = case(with_port(f"{scheme}://{host}", port))
    assert may_connect(origin, other(with_port(host, port)), allowed=())


@given(schemes, hosts, ports, hosts, ports)
def test_a_page_may_never_connect_to_another_host_or_port(scheme, host, port, other, other_port):
    default = DEFAULT_PORTS[scheme]
    same = (host.lower(), default if port is None else port) == (
        other.lower(),
        default if other_port is None else other_port,
    )
    origin = with_port(f"{scheme}://{host}", port)
    assert may_connect(origin, with_port(other, other_port), allowed=()) is same


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_is_too_strange_to_be_judged(origin, host):
    fault = find_fault([origin], [host], False, ALLOWED)
    assert fault is None or isinstance(fault, str)


@given(st.text(max_size=12), hosts, st.text(max_size=12))
def test_what_is_put_around_an_origin_makes_it_another_one_or_none(before, host, after):
    text = f"http://{before}{host}{after}"
    if may_connect(text, host, allowed=()):
        found = parse_origin(text)
        assert found == parse_origin(f"http://{host}")
        assert before == ""
        assert after in ("", ":80", ":080", ":0080", ":00080")
