"""A configuration, which comes as JSON, into a dataclass.

An operator writes it in KDL, and some of what is there cannot be told apart in
JSON: a list of one is a single value, so a list takes a single value too, and
names are written with hyphens, which stand for the underscores of Python.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import pathlib
import typing
from typing import Any, Dict, List, Optional, Tuple, Type, TypeVar, Union

from .errors import ConfigError

_T = TypeVar("_T")

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_config(config_type: Type[_T], value: Any, where: str = "config") -> _T:
    """Makes a ``config_type``, a dataclass, of a configuration.

    Understood are dataclasses, ``str``, ``int``, ``float``, ``bool``, ``Path``,
    ``Any``, enumerations by their values, ``Literal``, ``Optional``, ``Union``,
    ``List``, ``Tuple[T, ...]``, ``Set``, ``FrozenSet`` and ``Dict[str, T]`` of
    these. A member that is not known, is missing or has another type is an
    error that says where it is; so is whatever ``__post_init__`` raises as a
    ValueError. Nothing is left out without a word.

    :raises ConfigError: with all that is wrong in the words of the operator.
    """
    errors: List[str] = []
    result = _read(config_type, {} if value is None else value, where, errors)
    if errors:
        raise ConfigError("; ".join(errors))
    return typing.cast(_T, result)


def _read(kind: Any, value: Any, where: str, errors: List[str]) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any or kind is object:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_object(kind, value, where, errors)
    if origin is Union or type(kind).__name__ == "UnionType":
        return _read_union(typing.get_args(kind), value, where, errors)
    if origin is typing.Literal:
        choices = typing.get_args(kind)
        return _read_choice({choice: choice for choice in choices}, value, where, errors)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _read_choice({member.value: member for member in kind}, value, where, errors)
    if origin in (list, tuple, set, frozenset) or kind in (list, tuple, set, frozenset):
        return _read_list(kind, value, where, errors)
    if origin is dict or kind is dict:
        return _read_dict(kind, value, where, errors)
    return _read_scalar(kind, value, where, errors)


def _read_scalar(kind: Any, value: Any, where: str, errors: List[str]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in _WORDS:
        # True is an int for Python, but not for an operator.
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        return _wrong(_WORDS[kind], value, where, errors)
    if kind is type(None):
        return value if value is None else _wrong("nothing", value, where, errors)
    if isinstance(kind, type) and issubclass(kind, pathlib.PurePath):
        return kind(value) if isinstance(value, str) else _wrong("a path", value, where, errors)
    raise TypeError(f"{where}: a configuration cannot be read into {kind!r}")


def _read_object(kind: Any, value: Any, where: str, errors: List[str]) -> Any:
    if not isinstance(value, dict):
        return _wrong("a block", value, where, errors)
    types = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    given: Dict[str, Any] = {}
    before = len(errors)
    for written, member in value.items():
        name = written.replace("-", "_")
        if name not in fields:
            errors.append(f"{where}.{written} is not known{_did_you_mean(name, list(fields))}")
        elif name in given:
            errors.append(f"{where}.{written} is given twice, once with hyphens")
        else:
            given[name] = _read(types[name], member, f"{where}.{written}", errors)
    for name, field in fields.items():
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in given and not optional:
            errors.append(f"{where}.{name.replace('_', '-')} is missing")
    if len(errors) > before:
        return None
    try:
        return kind(**given)
    except ConfigError as error:
        errors.append(str(error))
    except ValueError as error:
        errors.append(f"{where}: {error}")
    return None


def _did_you_mean(name: str, known: List[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean `{close[0].replace('_', '-')}`?"
    names = ", ".join(f"`{it.replace('_', '-')}`" for it in known)
    return f"; there is {names}" if names else "; nothing is"


def _read_union(kinds: Tuple[Any, ...], value: Any, where: str, errors: List[str]) -> Any:
    if value is None and type(None) in kinds:
        return None
    first: Optional[List[str]] = None
    for kind in (it for it in kinds if it is not type(None)):
        attempt: List[str] = []
        result = _read(kind, value, where, attempt)
        if not attempt:
            return result
        first = first or attempt
    errors.extend(first or [])
    return None


def _read_choice(choices: Dict[Any, Any], value: Any, where: str, errors: List[str]) -> Any:
    for choice, result in choices.items():
        if type(value) is type(choice) and value == choice:
            return result
    names = ", ".join(repr(choice) for choice in choices)
    return _wrong(f"one of {names}", value, where, errors)


def _read_list(kind: Any, value: Any, where: str, errors: List[str]) -> Any:
    arguments = typing.get_args(kind)
    entry = arguments[0] if arguments else Any
    make = typing.get_origin(kind) or kind
    if not isinstance(value, list):
        return make([_read(entry, value, where, errors)])
    return make([_read(entry, it, f"{where}[{index}]", errors) for index, it in enumerate(value)])


def _read_dict(kind: Any, value: Any, where: str, errors: List[str]) -> Any:
    if not isinstance(value, dict):
        return _wrong("a block", value, where, errors)
    arguments = typing.get_args(kind)
    entry = arguments[1] if arguments else Any
    return {name: _read(entry, it, f"{where}.{name}", errors) for name, it in value.items()}


def _wrong(wanted: str, value: Any, where: str, errors: List[str]) -> None:
    given = {dict: "a block", list: "a list", type(None): "nothing"}.get(type(value))
    errors.append(f"{where} is {given or _WORDS.get(type(value), 'something else')}, not {wanted}")
