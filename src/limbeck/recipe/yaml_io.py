"""YAML text to plain data and back, safely: no object tags, no duplicate keys, no alias bombs.

YAML 1.1 (https://yaml.org/spec/1.1/) as PyYAML's safe loader reads it, with two of its traps closed as in YAML 1.2:
``1e-3`` is a number, and a date is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import yaml

from limbeck.core.errors import LimbeckError, suggest_names

__all__ = ["dump_compact", "dump_yaml", "parse_yaml", "read_source"]

_MAX_BYTES: Final = 1_000_000
_MAX_VALUES: Final = 100_000
"""With every ``*alias`` expanded, against "billion laughs" files."""
_MAX_DEPTH: Final = 40

_TAG_PREFIX: Final = "tag:yaml.org,2002:"
_ALLOWED_TAGS: Final = {_TAG_PREFIX + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
_FLOAT_PATTERN: Final = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
# Whatever a scalar of an explicit tag makes the constructors raise: `!!int abc`, `!!bool maybe`, 5,000 digits.
_CONSTRUCTOR_ERRORS: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


def read_source(source: str | Path) -> tuple[str, str]:
    """The text of a recipe and the name of its source; ``source`` is a path, or YAML text.

    A string is text if it has a line break or a ``key: value``.
    """
    if isinstance(source, str) and (not source.strip() or re.search(r"\n|:\s|:$|^\s*[{\[&!|>%]", source)):
        return _decode_text(source.encode(), "the recipe"), "the recipe"
    path = Path(source)
    try:
        if not path.is_file():
            raise LimbeckError(_missing_file_message(path))
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise LimbeckError(
            f"the recipe {path} could not be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    return _decode_text(data, str(path)), str(path)


def parse_yaml(text: str, source: str = "the recipe") -> Any:
    """The plain data of one YAML document: mappings, lists, text, numbers, true, false and null, and nothing else.

    >>> parse_yaml("{lr: 1e-3, betas: [0.9, 0.99]}")
    {'lr': 0.001, 'betas': [0.9, 0.99]}
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, source, {})
        return loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise LimbeckError(f"{source} is not valid YAML at line {line}: {error.reason}") from None
    except yaml.MarkedYAMLError as error:
        mark = _format_mark(error.problem_mark or error.context_mark)
        raise LimbeckError(f"{source} is not valid YAML at {mark}: {error.problem or error.context}") from None
    except RecursionError:
        raise LimbeckError(_too_deep_message(source)) from None
    except _CONSTRUCTOR_ERRORS as error:
        raise LimbeckError(f"{source} has a value that is not what its tag says: {error}") from None


def dump_yaml(data: Any) -> str:
    """``data`` as YAML in its order; :func:`parse_yaml` reads the same data back.

    >>> print(dump_yaml({"student": {"use": "small_cnn", "width": 8}, "note": "1e-3"}), end="")
    student: {use: small_cnn, width: 8}
    note: '1e-3'
    """
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110, indent=2
    )


def dump_compact(data: Mapping[str, Any], *, width: int = 110) -> str:
    """Like :func:`dump_yaml`, with every setting on one line that fits in ``width``.

    >>> print(dump_compact({"student": {"use": "mlp"}, "stages": [{"name": "distill", "steps": 9}]}, width=20))
    student: {use: mlp}
    stages:
      - name: distill
        steps: 9
    <BLANKLINE>
    """
    return "".join(line + "\n" for line in _compact_lines(data, width))


def _compact_lines(data: Mapping[str, Any], width: int) -> list[str]:
    lines: list[str] = []
    for key, value in data.items():
        text = yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, default_flow_style=True, allow_unicode=True,
            width=10**6)  # fmt: skip
        line = text.strip()[1:-1]
        if len(line) <= width or not isinstance(value, Mapping | list):
            lines.append(line)
        elif isinstance(value, Mapping):
            lines += [f"{key}:", *(f"  {child}" for child in _compact_lines(value, width - 2))]
        else:
            lines.append(f"{key}:")
            for item in value:
                children = _compact_lines(item, width - 4)
                lines += [f"  - {children[0]}", *(f"    {child}" for child in children[1:])]
    return lines


@final
class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with numbers and dates as in YAML 1.2."""


@final
class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes text that :class:`_Loader` would take for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # In single quotes PyYAML folds these line breaks to a space.
    style = '"' if any(character in text for character in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(_TAG_PREFIX + "str", text, style=style)


_Dumper.add_representer(str, _represent_str)
for _yaml_class in (_Loader, _Dumper):
    _yaml_class.add_implicit_resolver(_TAG_PREFIX + "float", _FLOAT_PATTERN, list("-+.0123456789"))
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in (_TAG_PREFIX + "timestamp", _TAG_PREFIX + "value")
    ]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _measure(node: yaml.Node, source: str, sizes: dict[int, tuple[int, int] | None], depth: int = 0) -> tuple[int, int]:
    """Check a parsed tree before it is expanded; returns its number of values with aliases expanded, and its depth."""
    location = f"{source}, {_format_mark(node.start_mark)}"
    if id(node) not in sizes:
        if node.tag not in _ALLOWED_TAGS:
            raise LimbeckError(
                f"{location}: the tag {node.tag.replace(_TAG_PREFIX, '!!')} is refused, since a recipe holds plain "
                "values only: name what is to be built under `use:`"
            )
        sizes[id(node)] = None
        children = [_measure(child, source, sizes, depth + 1) for child in _children(node, source)]
        height = 1 + max((height for _, height in children), default=0)
        sizes[id(node)] = 1 + sum(count for count, _ in children), height
    if (size := sizes[id(node)]) is None:
        raise LimbeckError(f"{location}: a value contains itself (&anchor and *alias)")
    count, height = size
    if depth + height > _MAX_DEPTH:
        raise LimbeckError(_too_deep_message(source))
    if count > _MAX_VALUES:
        raise LimbeckError(f"{source} grows to over {_MAX_VALUES:,} values when its aliases are expanded: use fewer")
    return size


def _children(node: yaml.Node, source: str) -> list[yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return list(node.value) if isinstance(node, yaml.SequenceNode) else []
    seen_keys = set()
    for key, _ in node.value:
        location = f"{source}, {_format_mark(key.start_mark)}"
        if not isinstance(key, yaml.ScalarNode):
            raise LimbeckError(f"{location}: a key is one word, not a list or mapping")
        if key.value in seen_keys:
            raise LimbeckError(f"{location}: {key.value!r} is twice in one mapping: keep one")
        seen_keys.add(key.value)
    return [child for pair in node.value for child in pair]


def _decode_text(data: bytes, source: str) -> str:
    if len(data) > _MAX_BYTES:
        raise LimbeckError(f"{source} is larger than {_MAX_BYTES // 1_000_000} MB, and a recipe is a page of text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LimbeckError(f"{source} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _missing_file_message(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder, and a recipe is a YAML file{_list_yaml_files(path, path.name)}"
    if not path.parent.is_dir():
        return f"there is no recipe {path}: the folder {path.parent} does not exist"
    return f"there is no recipe {path}{_list_yaml_files(path.parent, path.name)}"


def _list_yaml_files(folder: Path, name: str) -> str:
    files = sorted(file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))
    return f"; available in {folder}: {suggest_names(name, files)}" if files else f"; {folder} has no YAML file"


def _format_mark(mark: Any) -> str:
    return "an unknown position" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"


def _too_deep_message(source: str) -> str:
    return f"{source} is nested more than {_MAX_DEPTH} deep, and no recipe needs to be"
