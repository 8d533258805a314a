"""YAML 1.2 text to plain values, with the line of every key: what a pipeline file says, and where it says it.

The node graph is walked here rather than constructed by the library: that keeps the lines, refuses duplicate keys and tags,
and bounds what anchors can expand to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from conf.errors import ConfigError

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 20_000
MAX_DEPTH = 32

Path = tuple[str | int, ...]

_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq")
}


class Problem(NamedTuple):
    """What is wrong with one setting, as a sentence that begins with the setting's name."""

    path: Path
    message: str


@dataclass(frozen=True)
class Document:
    """The values of one YAML file, and the line (from 1) of each key and list entry."""

    values: dict[str, Any]
    lines: dict[Path, int]


def parse(text: str, file: str) -> Document:
    """Read one YAML document whose top is a mapping.

    Args:
        file: what messages call the file.

    Raises:
        ConfigError: the text is no YAML, holds a key twice, or is too large or too deep; the message names the line and the cure.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"{file}: expected at most {MAX_CHARACTERS:,} characters, found {len(text):,}. Is this a data file?"
        )
    node = _compose(text, file)
    if node is None:
        raise ConfigError(f"{file}: the file is empty: expected settings such as `pipeline: name`.")
    if not isinstance(node, MappingNode):
        raise ConfigError(f"{file}:{_line(node)}: expected settings such as `pipeline: name`, found {_kind(node)}.")
    walk = _Walk(file)
    values = walk.value(node, ())
    if walk.problems:
        raise ConfigError(walk.problems)
    return Document(values, walk.lines)


def parse_value(text: str, where: str) -> Any:
    """One value in YAML's flow form, such as `5`, `[a, b]` or `{share: 0.2}`.

    Raises:
        ConfigError: as `parse`.
    """
    if "\n" in text:
        raise ConfigError(f"{where}: expected a value on one line, found several lines.")
    try:
        values: Any = parse(f"value: {text}", where).values
    except ConfigError as error:
        raise ConfigError([problem.replace(f"{where}:1:", f"{where}:", 1) for problem in error.problems]) from None
    if list(values) != ["value"]:
        raise ConfigError(f"{where}: expected one value, found several settings. {_QUOTE}")
    return values["value"]


def _compose(text: str, file: str) -> Node | None:
    """The node graph of the text, after a look at its events for depth: composing recurses, reading events does not."""
    if text.lstrip("\ufeff").startswith("%"):
        raise ConfigError(
            f"{file}:1: expected settings, found a YAML directive. Remove the line: files are read as YAML 1.2."
        )
    try:
        for depth, line in _depths(text):
            if depth > MAX_DEPTH:
                raise ConfigError(f"{file}:{line}: expected at most {MAX_DEPTH} levels of nesting, found more.")
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
        return node
    except MarkedYAMLError as error:
        raise ConfigError(_syntax(error, file)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{file}:{line}: expected text, found the control character U+{ord(text[error.position]):04X}. Remove it."
        ) from None
    except YAMLError as error:
        raise ConfigError(f"{file}: this is not YAML: {error}.") from None


def _depths(text: str) -> Iterator[tuple[int, int]]:
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        name = type(event).__name__
        depth += name in ("MappingStartEvent", "SequenceStartEvent")
        depth -= name in ("MappingEndEvent", "SequenceEndEvent")
        yield depth, event.start_mark.line + 1


class _Walk:
    """Turns nodes into values, keeping lines and collecting problems."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        self.problems: list[str] = []
        self.count = 0
        self._scalars = SafeConstructor(loader=YAML(typ="safe", pure=True))

    def value(self, node: Node, path: Path) -> Any:
        """What a node says, in plain Python; what is wrong with it goes to `problems`, None in its place.

        Raises:
            ConfigError: the document is too large or too deep to be one that people write.
        """
        self.count += 1
        if self.count > MAX_VALUES or len(path) > MAX_DEPTH:
            raise ConfigError(
                f"{self._at(node)}: expected at most {MAX_VALUES:,} values and {MAX_DEPTH} levels, found more. Write anchors and aliases out."
            )
        if node.tag not in _PLAIN_TAGS:
            self.problems.append(
                f"{self._at(node)}: expected a plain value, found the tag {_tag(node)}. Remove the tag."
            )
            return None
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self._entry(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self._scalar(node)

    def _entry(self, node: Node, path: Path) -> Any:
        self.lines[path] = _line(node)
        return self.value(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        before: tuple[str, Any] | None = None
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.problems.append(
                    f"{self._at(key_node)}: expected a name before the colon, found {_kind(key_node)}."
                )
                continue
            key = key_node.value
            if node.flow_style and _is_absent(value_node):
                self.problems.append(f"{self._at(key_node)}: {_cut(key, before)}")
                continue
            if key in values:
                first = self.lines[(*path, key)]
                self.problems.append(
                    f"{self._at(key_node)}: `{key}` stands twice in the same block (first on line {first}). Remove one."
                )
                continue
            self.lines[(*path, key)] = _line(key_node)
            values[key] = self.value(value_node, (*path, key))
            before = (key, values[key])
        return values

    def _scalar(self, node: ScalarNode) -> Any:
        try:
            return self._scalars.construct_object(node)
        except (ValueError, OverflowError):  # such as 2013-02-30, which looks like a date and is none
            self.problems.append(
                f"{self._at(node)}: {node.value!r} is no date that exists. Correct it, or put quotes around a text."
            )
            return None

    def _at(self, node: Node) -> str:
        return f"{self.file}:{_line(node)}"


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _kind(node: Node) -> str:
    return (
        "a list"
        if isinstance(node, SequenceNode)
        else "a block"
        if isinstance(node, MappingNode)
        else f"{node.value!r}"
    )


def _tag(node: Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _is_absent(node: Node) -> bool:
    """Nothing stands after the key, not even `null` or an empty text in quotes."""
    return isinstance(node, ScalarNode) and node.value == "" and node.style is None


def _cut(key: str, before: tuple[str, Any] | None) -> str:
    """`{a: f(x, y)}` is YAML for `a: f(x` and the key `y)`: nearly always an expression cut at its comma."""
    if before is None:
        return f"`{key}` has no value. Write `{key}: value`, or remove it."
    name, value = before
    return f"the value of `{name}` ends at a comma: {value!r}, then `{key}`. {_QUOTE_OR_BLOCK}"


_QUOTE_OR_BLOCK = "Inside { } or [ ], put quotes around a value with a comma, colon, quote or bracket, or write the block one key a line."
_QUOTE = "Put quotes around the whole value, or write it after `>-` on a line of its own."

_CAUSES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (
        r"found another document|but found another",
        lambda _: "expected one document, found `---` and a second one. Split the file.",
    ),
    (r"mapping values are not allowed here", lambda _: f"a value holds a colon and a space. {_QUOTE}"),
    (r"found character '\\t'", lambda _: "expected spaces, found a tab. Indent with spaces."),
    (r"found character '(.)' that", lambda m: f"a value cannot begin with {m[1]}. {_QUOTE}"),
    (
        r"found undefined alias '?([^']*)",
        lambda m: f"a value begins with *, which names an anchor, and there is no anchor {m[1]}. {_QUOTE}",
    ),
    (r"unexpected end of stream", lambda _: "a quote is opened here and never closed. Close it."),
    (
        r"could not find expected ':'",
        lambda _: "expected `name: value`, found no colon. Write one, or indent the line to continue the value above.",
    ),
    (r"expected the node content", lambda _: f"a value begins with a bracket that opens nothing. {_QUOTE}"),
    (r"expected alphabetic or numeric", lambda _: f"a value begins with * or &. {_QUOTE}"),
    (
        r"but found '<scalar>'|but found ','",
        lambda _: f"text follows a value that had ended, most likely after a closing quote or bracket. {_QUOTE}",
    ),
    (
        r"<block (mapping|sequence) start>|<block end>|'-'|'\?'",
        lambda _: "the indentation fits no block above. Align it with the other keys of its block.",
    ),
)


def _syntax(error: MarkedYAMLError, file: str) -> str:
    """One sentence with the line and the cure, in place of the parser's own words."""
    problem, context = str(error.problem or ""), str(error.context or "")
    mark = error.problem_mark or error.context_mark
    opened = error.context_mark
    line = mark.line + 1 if mark else 1
    if "flow" in context and opened is not None and mark is not None:
        if "stream end" in problem or ("':'" in problem and line > opened.line + 1):
            return f"{file}:{opened.line + 1}: a bracket is opened here and not closed. Close it. {_QUOTE_OR_BLOCK}"
        return f"{file}:{line}: a value is cut at column {mark.column + 1}. {_QUOTE_OR_BLOCK}"
    if opened is not None and ("quoted scalar" in context or "simple key" in context):
        line = opened.line + 1
    for pattern, sentence in _CAUSES:
        match = re.search(pattern, problem)
        if match:
            return f"{file}:{line}: {sentence(match)}"
    return f"{file}:{line}: this is not YAML: {problem}. {_QUOTE}"
