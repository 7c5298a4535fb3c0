"""Sockets: on the loopback address, at a free port; what can't be is said."""

import pytest

from finetune.web.listening import address_of, hosts_of, open_socket


def test_a_free_port_is_found_on_the_loopback_address() -> None:
    with open_socket("127.0.0.1", 0) as listening:
        host, port = listening.getsockname()
        assert host == "127.0.0.1"
        assert address_of(listening) == f"http://127.0.0.1:{port}/"


def test_a_port_in_use_is_an_error_with_the_way_out() -> None:
    with open_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port}: something else .* or 0 for a free one"):
            open_socket("127.0.0.1", port)


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(
        OSError, match=r"203\.0\.113\.1, port 0: no such address of this machine; 127"
    ):
        open_socket("203.0.113.1", 0)
    with pytest.raises(ValueError, match=r"port must be a whole number .*65535, got 70000"):
        open_socket("127.0.0.1", 70000)


def test_names_from_elsewhere_are_for_those_who_open_it_to_others() -> None:
    assert hosts_of("localhost") == ("127.0.0.1", "localhost")
    assert hosts_of("0.0.0.0") == ("*",)
