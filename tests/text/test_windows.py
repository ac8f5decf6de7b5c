import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import SettingError
from ropewalk.text.tokens import TokenDocument
from ropewalk.text.windows import sliding, truncate


def document(length: int) -> TokenDocument:
    return TokenDocument(name="numbers", ids=torch.arange(length))


@st.composite
def readings(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(tokens of the document, length, window, stride)."""
    length = draw(st.integers(2, 300))
    window = draw(st.integers(2, 320))
    return length + draw(st.integers(0, 20)), length, window, draw(st.integers(1, window - 1))


@given(readings())
def test_every_token_but_the_first_is_scored_once_and_in_order(reading: tuple[int, int, int, int]) -> None:
    num_tokens, length, window, stride = reading
    windows = sliding(document(num_tokens), length, window, stride)

    scored = [int(token) for w in windows for token in w.ids[-w.num_scored :]]
    assert scored == list(range(1, length))


@given(readings())
def test_windows_are_of_one_size_and_move_by_the_stride(reading: tuple[int, int, int, int]) -> None:
    num_tokens, length, window, stride = reading
    windows = sliding(document(num_tokens), length, window, stride)

    for w in windows:
        assert torch.equal(w.ids, torch.arange(int(w.ids[0]), int(w.ids[0]) + min(window, length)))
    assert all(w.num_scored == stride for w in windows[1:-1])
    assert all(w.num_scored <= stride for w in windows[1:])
    # A token sees at least the window without the stride.
    assert all(len(w.ids) - w.num_scored >= window - stride for w in windows[1:])


def test_the_drawing_in_the_docstring() -> None:
    windows = sliding(document(8), 8, 5, 2)

    assert [(w.ids.tolist(), w.num_scored) for w in windows] == [
        ([0, 1, 2, 3, 4], 4),
        ([2, 3, 4, 5, 6], 2),
        ([3, 4, 5, 6, 7], 1),
    ]


@given(st.integers(2, 100), st.integers(0, 20))
def test_truncate_is_one_pass(length: int, more: int) -> None:
    (window,) = truncate(document(length + more), length)

    assert torch.equal(window.ids, torch.arange(length))
    assert window.num_scored == length - 1


@pytest.mark.parametrize("stride", [0, -1, 4, 5])
def test_a_stride_that_leaves_no_context_is_refused(stride: int) -> None:
    with pytest.raises(SettingError, match="stride"):
        sliding(document(10), 10, 4, stride)


@pytest.mark.parametrize("length", [-1, 0, 1, 11])
def test_a_length_outside_the_document_is_refused(length: int) -> None:
    with pytest.raises(SettingError, match="numbers"):
        truncate(document(10), length)
    with pytest.raises(SettingError, match="numbers"):
        sliding(document(10), length, 4, 2)
