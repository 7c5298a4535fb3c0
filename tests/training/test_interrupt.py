"""Signals wait for the end of the running step."""

import os
import signal
import threading

import pytest

from finetune.training.interrupt import Interruption, deferred_signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_recorded_and_does_not_raise(number: int):
    with deferred_signals() as interruption:
        assert not interruption
        send(number)
        assert interruption
        assert interruption.signal == number


def test_ctrl_c_becomes_a_keyboard_interrupt():
    assert type(Interruption().error()) is KeyboardInterrupt


def test_sigterm_becomes_exit_code_143():
    interruption = Interruption()
    interruption.signal = signal.SIGTERM
    error = interruption.error()
    assert isinstance(error, SystemExit)
    assert error.code == 143


def test_a_second_ctrl_c_raises_at_once():
    with deferred_signals():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            send(signal.SIGINT)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError, match="mine"), deferred_signals():
        {}["mine"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_handler_of_the_program_for_sigterm_stays():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("mine"))
    try:
        with deferred_signals() as interruption:
            send(signal.SIGTERM)
            assert not interruption
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["mine"]


def test_an_ignored_ctrl_c_stays_ignored():
    # as in `nohup` or a background job of a shell script, which must survive the terminal's Ctrl-C
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals() as interruption:
            send(signal.SIGINT)
            assert not interruption
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_installed():
    handlers = []

    def work() -> None:
        with deferred_signals() as interruption:
            handlers.append((signal.getsignal(signal.SIGINT), bool(interruption)))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(before, False)]
