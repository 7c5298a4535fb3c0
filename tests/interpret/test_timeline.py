"""Where steps lie on the axis of epochs."""

from finetune.interpret.timeline import find_spans


def test_a_resumed_run_is_one_span() -> None:
    (span,) = find_spans([("all", 0, 0, 0), ("all", 0, 0, 1), ("all", 0, 2, 0)], 2)
    assert (span.epochs, span.start, span.end) == ((0.0, 0.5, 2.0), 0, 3)
    assert (span.first, span.last) == (0, 3)


def test_an_unfinished_epoch_counts_as_a_whole_one() -> None:
    spans = find_spans([("one", 0, 0, 0), ("two", 0, 0, 0), ("two", 0, 0, 3)], 4)
    assert [(span.start, span.end) for span in spans] == [(0, 1), (1, 2)]
    assert spans[1].epochs == (1.0, 1.75)


def test_two_fits_of_one_name_are_two_spans() -> None:
    assert len(find_spans([("fit", 0, 0, 0), ("fit", 0, 1, 0), ("fit", 0, 0, 0)], 1)) == 2


def test_more_frozen_groups_begin_a_span() -> None:
    assert [span.frozen for span in find_spans([("fit", 0, 0, 0), ("fit", 1, 0, 1)], 2)] == [0, 1]


def test_no_steps_have_no_spans() -> None:
    assert find_spans([], 4) == []
