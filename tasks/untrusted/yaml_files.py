"""Read YAML written by users: recipes, studies, machines, the values of `--set`.

Only plain data is accepted. Keys are unique; size and aliases are bounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from tasks.untrusted.input_files import readable, short

LONGEST = 1 << 20
"""Maximum bytes of a file; the longest recipe has a few thousand."""
MOST = 100_000
"""Maximum number of values and keys after expanding aliases.

A few lines of aliases of aliases expand to more than any memory can hold.
"""
KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
"""Tags that a key may have."""


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that contains a mapping.

    **Arguments:**
        what: What the file is, for the message.
    **Raises:** ValueError, in one line, that names file, line, column and remedy.
    """
    if readable(path).stat().st_size > LONGEST:
        raise ValueError(
            f"{path}: has more than {LONGEST >> 20} MiB; {what} has a few lines, check the path"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text; {what} is a YAML file, save it as UTF-8"
        ) from error
    tree = read_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ValueError(
            f"{path}: {what} is a mapping of keys to values, found {type(tree).__name__}; write "
            f"`key: value` lines"
        )
    return tree


def read_yaml(text: str, where: str) -> Any:
    """Parse a YAML text; None for an empty one.

    **Raises:** ValueError in one line that gives `where`, line, column and remedy.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"{where}: broken YAML at line {line}: a character that YAML does not allow; remove it"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "its end"
        raise ValueError(
            f"{where}: broken YAML at {place}: {short(error.problem or 'not readable', 160)}; "
            f"fix that line"
        ) from error
    except RecursionError as error:
        raise ValueError(
            f"{where}: nested too deeply to read; a recipe has a few levels, take some out"
        ) from error


class _Loader(yaml.SafeLoader):
    """Loader that reports the position of a text that does not fit its tag.

    Examples: a date with month 13, a number with 5,000 digits, `!!bool maybe`.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            kind = str(node.tag).rpartition(":")[2]
            message = (
                f"{short(node.value, 40)!r} looks like a value of kind {kind} but is not one, "
                f"put it in quotes"
            )
            raise ConstructorError(None, None, message, node.start_mark) from error


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the values and keys below a node, with aliases expanded.

    `sizes` maps the ids of finished nodes to their counts; 0 marks a node being counted.

    **Raises:** ConstructorError for a key that is not text, a duplicate key, a circular alias, and
        more than `MOST` values.
    """
    if id(node) in sizes:
        if not (size := sizes[id(node)]):
            raise ConstructorError(
                None, None, "an alias of the value that contains it; write it out", node.start_mark
            )
        return size
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag not in KEYS or not isinstance(key.value, str):
                shown = short(key.value, 40) if isinstance(key.value, str) else "a list or mapping"
                raise ConstructorError(
                    None,
                    None,
                    f"the key {shown} is not read as text, put it in quotes",
                    key.start_mark,
                )
            if key.value in seen:
                raise ConstructorError(
                    None,
                    None,
                    f"the key {short(key.value, 40)} is there twice, remove one",
                    key.start_mark,
                )
            seen.add(key.value)
            size += 1 + _check(value, sizes)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check(item, sizes) for item in node.value)
    if size > MOST:
        raise ConstructorError(
            None, None, f"expands to more than {MOST:,} values, use fewer aliases", node.start_mark
        )
    sizes[id(node)] = size
    return size
