"""YAML text: values and lines, and one sentence for whatever is not YAML."""

from __future__ import annotations

from datetime import date
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from conf.document import parse, parse_value
from conf.errors import ConfigError

BLOCK = (
    "Inside { } or [ ], put quotes around a value with a comma, colon, quote or bracket,"
    " or write the block one key a line."
)
QUOTE = "Put quotes around the whole value, or write it after `>-` on a line of its own."


def test_values_are_those_of_yaml_1_2() -> None:
    """Words, clock times and exponents mean what they look like."""
    text = "a: NO\nb: on\nc: 1e-4\nd: 1:30\ne: 2013-11-01\nf: 010\ng: ~\nh: true\ni: '2013-11-01'\nj: .inf\n"
    assert parse(text, "f.yaml").values == {
        "a": "NO",
        "b": "on",
        "c": 1e-4,
        "d": "1:30",
        "e": date(2013, 11, 1),
        "f": 10,
        "g": None,
        "h": True,
        "i": "2013-11-01",
        "j": float("inf"),
    }


def test_every_key_and_entry_keeps_its_line() -> None:
    """Lines count from 1, whatever the style of the block."""
    text = "# first\na:\n  b: {c: 1,\n      d: 2}\n  e:\n    - x\n    - {f: >-\n        y}\n"
    with pytest.raises(ConfigError):  # a folded text cannot stand inside { }
        parse(text, "f.yaml")
    text = "# first\na:\n  b: {c: 1,\n      d: 2}\n  e:\n    - x\n    - f: >-\n        y\n"
    assert parse(text, "f.yaml").lines == {
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "b", "c"): 3,
        ("a", "b", "d"): 4,
        ("a", "e"): 5,
        ("a", "e", 0): 6,
        ("a", "e", 1): 7,
        ("a", "e", 1, "f"): 7,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d: {x: foo(b, c)}", f"f.yaml:1: the value of `x` ends at a comma: 'foo(b', then `c)`. {BLOCK}"),
        ("a: 1\nd: {x: o IN ('EWR','JFK')}", f"f.yaml:2: a value is cut at column 25. {BLOCK}"),
        ("d: {x: 1,\n  y: f(a, 'b'),\n  z: 1}", f"f.yaml:2: a value is cut at column 14. {BLOCK}"),
        ("d: {x: a: b}", f"f.yaml:1: a value is cut at column 9. {BLOCK}"),
        ("d: {x}", "f.yaml:1: `x` has no value. Write `x: value`, or remove it."),
        ("d: {x: 1\ne: 2\nf: 3", f"f.yaml:1: a bracket is opened here and not closed. Close it. {BLOCK}"),
        ("d: [1, 2", f"f.yaml:1: a bracket is opened here and not closed. Close it. {BLOCK}"),
        ("a: x: y", f"f.yaml:1: a value holds a colon and a space. {QUOTE}"),
        ("a:\n\tb: 1", "f.yaml:2: expected spaces, found a tab. Indent with spaces."),
        (
            "a: 'x' = y",
            f"f.yaml:1: text follows a value that had ended, most likely after a closing quote or bracket. {QUOTE}",
        ),
        ("a: `x` = 1", f"f.yaml:1: a value cannot begin with `. {QUOTE}"),
        ("a: %x", f"f.yaml:1: a value cannot begin with %. {QUOTE}"),
        ("a: @x", f"f.yaml:1: a value cannot begin with @. {QUOTE}"),
        ('b: 1\na: "x\nc: 1\n', "f.yaml:2: a quote is opened here and never closed. Close it."),
        ("a: *x", f"f.yaml:1: a value begins with *, which names an anchor, and there is no anchor x. {QUOTE}"),
        ("a: {n: *}", f"f.yaml:1: a value begins with * or &. {QUOTE}"),
        ("a: ]", f"f.yaml:1: a value begins with a bracket that opens nothing. {QUOTE}"),
        (
            "a:\n  b: 1\n c: 2",
            "f.yaml:3: the indentation fits no block above. Align it with the other keys of its block.",
        ),
        (
            "a: b\nfoo\n",
            "f.yaml:2: expected `name: value`, found no colon. Write one, or indent the line to continue the value above.",
        ),
        ("a: 1\nb: 2\na: 3", "f.yaml:3: `a` stands twice in the same block (first on line 1). Remove one."),
        ("a: 1\n---\nb: 1", "f.yaml:2: expected one document, found `---` and a second one. Split the file."),
        (
            "%YAML 1.1\n---\na: NO",
            "f.yaml:1: expected settings, found a YAML directive. Remove the line: files are read as YAML 1.2.",
        ),
        (
            "a: 2013-02-30",
            "f.yaml:1: '2013-02-30' is no date that exists. Correct it, or put quotes around a text.",
        ),
        ("? [a]\n: b", "f.yaml:1: expected a name before the colon, found a list."),
        ("a: b\n\nc: \x01", "f.yaml:3: expected text, found the control character U+0001. Remove it."),
        ("", "f.yaml: the file is empty: expected settings such as `pipeline: name`."),
        ("# nothing\n", "f.yaml: the file is empty: expected settings such as `pipeline: name`."),
        ("\n- a", "f.yaml:2: expected settings such as `pipeline: name`, found a list."),
        ("hello", "f.yaml:1: expected settings such as `pipeline: name`, found 'hello'."),
    ],
)
def test_what_is_no_yaml_is_one_sentence_with_line_and_cure(text: str, message: str) -> None:
    """No word of the parser's own gets through."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert caught.value.problems == (message,)


def test_duplicates_and_tags_are_all_named_at_once() -> None:
    """The walk goes on after a problem."""
    with pytest.raises(ConfigError) as caught:
        parse("a: 1\na: 2\nb: !!python/object/apply:os.system [id]\nc: !mine 3\n", "f.yaml")
    assert caught.value.problems == (
        "f.yaml:2: `a` stands twice in the same block (first on line 1). Remove one.",
        "f.yaml:3: expected a plain value, found the tag !!python/object/apply:os.system. Remove the tag.",
        "f.yaml:4: expected a plain value, found the tag !mine. Remove the tag.",
    )


def test_an_anchor_may_be_used_again() -> None:
    """Aliases stand for copies; a merge key is an ordinary key and later no setting."""
    assert parse("a: &x {b: 1}\nc: *x\n", "f.yaml").values == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
            ),
            "f.yaml:1: expected at most 20,000 values and 32 levels, found more. Write anchors and aliases out.",
        ),
        (
            "a: &x [*x]",
            "f.yaml:1: expected at most 20,000 values and 32 levels, found more. Write anchors and aliases out.",
        ),
        ("a: " + "[" * 100_000, "f.yaml:1: expected at most 32 levels of nesting, found more."),
        (
            "a: " + "x" * 1_000_000,
            "f.yaml: expected at most 1,000,000 characters, found 1,000,003. Is this a data file?",
        ),
    ],
    ids=["billion laughs", "itself", "deep", "large"],
)
def test_hostile_sizes_are_refused_quickly(text: str, message: str) -> None:
    """Neither memory nor the stack is spent on them."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert caught.value.problems == (message,)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("1e-4", 1e-4),
        ("", None),
        ("{share: 0.2}", {"share": 0.2}),
        ("[a, b]", ["a", "b"]),
        ("2 hours", "2 hours"),
        ("f(a, b)", "f(a, b)"),
        ("count(*) = 0", "count(*) = 0"),
        ("2013-11-01", date(2013, 11, 1)),
    ],
)
def test_one_value_in_flow_form(text: str, value: object) -> None:
    """As on the right of a colon."""
    assert parse_value(text, "--set a") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b", f"--set a: a value holds a colon and a space. {QUOTE}"),
        ("[a, b", f"--set a: a bracket is opened here and not closed. Close it. {BLOCK}"),
        ("1\nb: 2", "--set a: expected a value on one line, found several lines."),
        ("!x 1", "--set a: expected a plain value, found the tag !x. Remove the tag."),
    ],
)
def test_a_value_that_is_no_yaml(text: str, message: str) -> None:
    """The sentence names the setting in place of a line."""
    with pytest.raises(ConfigError) as caught:
        parse_value(text, "--set a")
    assert caught.value.problems == (message,)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="ascii"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), VALUES, min_size=1, max_size=4))
def test_what_a_library_writes_is_read_back(values: dict[str, object]) -> None:
    """Any document of plain values, in block style as ruamel.yaml writes it."""
    stream = StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.dump(values, stream)
    assert parse(stream.getvalue(), "f.yaml").values == values


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_sentences(text: str) -> None:
    """No other exception leaves the parser, and each problem begins with the file."""
    try:
        parse(text, "f.yaml")
    except ConfigError as error:
        assert all(problem.startswith("f.yaml:") for problem in error.problems)
