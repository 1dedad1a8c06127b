"""Our own events survive readers that split lines at every separator of Unicode."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from abruzzi.server.sse import event


@given(st.text(st.sampled_from("aé😀\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r\n\ud800")))
def test_an_event_is_one_line_for_every_reader(text: str) -> None:
    sent = event({"text": text}).decode()
    (line, blank) = (lines := sent.splitlines())[0], lines[1]
    assert len(lines) == 2 and not blank and json.loads(line.removeprefix("data: ")) == {"text": text}
    assert "é" in sent if "é" in text else True
