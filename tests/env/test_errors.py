"""What errors say, and what they must not."""

import html
import json

import pytest

from rlpa_env.errors import excerpt, redacted

HIDDEN = ["Zürich", 'calls it "home"', "34", "O'Neill & sons", "李明"]


@pytest.mark.parametrize("written", [str, json.dumps, lambda value: json.dumps(json.dumps(value)), repr, html.escape, str.upper], ids=range(6))
@pytest.mark.parametrize("value", HIDDEN)
def test_a_hidden_value_is_left_out_however_it_is_quoted(value, written):
    for before, after in (("Age: ", ", nurse"), ("", ""), ("\n", "\n"), ("我", "岁"), ("\u201c", "\u201d")):
        quoted = written(f"{before}{value}{after}")
        left = redacted(f"HTTP 400: cannot read {quoted} here", HIDDEN)
        assert written(value).strip("\"'") not in left
        assert left.startswith("HTTP 400: cannot read ")
        assert left.endswith(" here")


def test_a_cut_within_a_hidden_value_shows_nothing_of_it():
    text = "HTTP 400: cannot read 'Location: Zürich'"
    for most in range(len("HTTP 400: cannot read 'Location: "), len(text) + 1):
        assert redacted(excerpt(text, most), HIDDEN).startswith("HTTP 400: cannot read 'Location: …")
        assert "Z" not in redacted(excerpt(text, most), HIDDEN)
    assert redacted("he lives in New Yo…", ["York", "New York"]) == "he lives in …"
    assert redacted(excerpt("the end of an A…", 300), HIDDEN) == "the end of an A…"


def test_words_that_only_hold_a_hidden_value_stay():
    assert redacted("no answer after 340 attempts, Zürichs nicht", HIDDEN) == "no answer after 340 attempts, Zürichs nicht"
    assert redacted("nothing is hidden", []) == "nothing is hidden"
