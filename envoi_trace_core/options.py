"""From `KEY=VALUE` words to an instance of a plugin's options class, strictly by its annotations."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from envoi_trace_core.errors import EnvoiTraceError, UsageError
from envoi_trace_core.suggest import did_you_mean

TRUE_WORDS = frozenset({"true", "1", "yes", "on"})
FALSE_WORDS = frozenset({"false", "0", "no", "off"})


@attrs.frozen(kw_only=True)
class OptionInfo:
    """One option of a plugin, as `envoi-trace plugins show` prints it."""

    name: str
    type: str
    """In the words of a user: `text`, `whole number`, `true or false`, `path`, `list of text`, `a|b`."""
    default: Any
    unit: str | None
    help: str
    choices: tuple[str, ...] = ()
    secret: bool = False


def parse_options[OptionsT](
    options_class: type[OptionsT], words: Iterable[str], kind: str, plugin_name: str
) -> OptionsT:
    """Make an options instance of `KEY=VALUE` words.

    A key may be written with `-` for `_`. An option given twice takes the last value, except a tuple, which takes
    all of them (each may hold several, separated by commas). The empty value, and for what is not text
    the word `none`, stand for None where the annotation allows it.

    Args:
        options_class: An attrs class in which every field has a default.
        words: As the user gave them.
        kind: Of the plugin, for the error: `agent`, `sandbox`, `storage`, `launcher`.
        plugin_name: For the error.

    Raises:
        UsageError: A word is no `KEY=VALUE`, a key is unknown, or a value is not what its option expects.
            The value of a secret option is never repeated.
    """
    where = f"{kind} {plugin_name!r}"
    mend = f"envoi-trace plugins show {plugin_name}"
    fields = _fields(options_class)
    texts: dict[str, list[str]] = {}
    for word in words:
        key, separator, text = word.partition("=")
        name = key.strip().replace("-", "_")
        if not separator or not name:
            shown = word if "=" not in word else "=..."  # without a key there is no telling whether it is a secret
            raise UsageError(f"{shown!r} is no option of {where}: expected KEY=VALUE", mend=mend)
        if name not in fields:
            takes = f"It takes: {', '.join(fields)}" if fields else "It takes no options"
            raise UsageError(f"unknown option {name!r} of {where}.{did_you_mean(name, fields)} {takes}", mend=mend)
        texts.setdefault(name, []).append(text)
    values = {name: _value(fields[name], given, where, mend) for name, given in texts.items()}
    try:
        return options_class(**{str(fields[name].attribute.alias): value for name, value in values.items()})
    except EnvoiTraceError:
        raise
    except Exception as error:  # noqa: BLE001 - a validator of the plugin's own
        secrets = [text for name, given in texts.items() if fields[name].secret for text in given if text]
        raise UsageError(f"{where} refuses its options: {_without(str(error), secrets)}", mend=mend) from None


def describe_options(options_class: type[Any]) -> tuple[OptionInfo, ...]:
    """Every option of a plugin, in the order of the class."""
    return tuple(
        OptionInfo(
            name=name,
            type=field.expected.label,
            default=_default(field.attribute),
            unit=field.attribute.metadata.get("unit"),
            help=field.attribute.metadata.get("help", ""),
            choices=field.expected.choices,
            secret=field.secret,
        )
        for name, field in _fields(options_class).items()
    )


def secret_options(options_class: type[Any]) -> frozenset[str]:
    """The names of the options whose values must never be stored or shown."""
    return frozenset(name for name, field in _fields(options_class).items() if field.secret)


def with_absolute_paths(options_class: type[Any], words: Iterable[str]) -> tuple[str, ...]:
    """`KEY=VALUE` words in which each file or folder of this machine is named from the root, as of now."""
    fields = _fields(options_class)
    return tuple(_with_absolute_path(fields, word) for word in words)


def _with_absolute_path(fields: Mapping[str, _Field], word: str) -> str:
    key, separator, text = word.partition("=")
    field = fields.get(key.strip().replace("-", "_"))
    if field is None or not field.is_path or not text or field.expected.stands_for_none(text):
        return word
    texts = text.split(",") if field.expected.many else [text]
    return f"{key}{separator}{','.join(str(Path(each.strip()).expanduser().absolute()) for each in texts)}"


def check_options_class(options_class: Any) -> str | None:
    """Why a class can't be a plugin's options, or None when it can."""
    if not isinstance(options_class, type) or not attrs.has(options_class):
        return f"its options are {options_class!r:.100}, not an attrs class"
    for attribute in attrs.fields(options_class):
        if attribute.init and attribute.default is attrs.NOTHING:
            return f"option {attribute.name!r} has no default"
    try:
        _fields(options_class)
    except (TypeError, NameError, AttributeError, SyntaxError) as error:
        return f"its options can't be read: {error}"
    return None


# -- what an annotation expects -------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Expected:
    label: str
    base: Any
    choices: tuple[str, ...] = ()
    literals: tuple[Any, ...] = ()
    optional: bool = False
    many: bool = False

    def stands_for_none(self, text: str) -> bool:
        """Whether a word says that there is no value."""
        return self.optional and (text == "" or (self.base is not str and text.lower() == "none"))

    def parse(self, text: str) -> Any:
        """The value of one word; ValueError when it is not what is expected."""
        if self.stands_for_none(text):
            return None
        if self.literals:
            return dict(zip(self.choices, self.literals, strict=True))[text]
        if self.base is bool:
            return _parse_bool(text)
        if self.base is float:
            number = float(text)
            if not math.isfinite(number):
                raise ValueError(text)
            return number
        if self.base is Path:
            if not text:
                raise ValueError(text)
            return Path(text).expanduser()
        return self.base(text)


@attrs.frozen(kw_only=True)
class _Field:
    attribute: attrs.Attribute[Any]
    expected: _Expected
    secret: bool

    @property
    def is_path(self) -> bool:
        """Whether it names a file or folder of this machine."""
        return self.expected.base is Path or bool(self.attribute.metadata.get("path"))


_LABELS: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
}


def _fields(options_class: type[Any]) -> dict[str, _Field]:
    hints = get_type_hints(options_class)
    return {
        attribute.name: _Field(
            attribute=attribute,
            expected=_expected(hints.get(attribute.name, str), attribute.name),
            secret=bool(attribute.metadata.get("secret")),
        )
        for attribute in attrs.fields(options_class)
        if attribute.init
    }


def _expected(annotation: Any, name: str) -> _Expected:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        [inner] = [argument for argument in arguments if argument is not type(None)]
        return attrs.evolve(_expected(inner, name), optional=True)
    if origin is Literal:
        choices = tuple(str(value) for value in arguments)
        return _Expected(label="|".join(choices), base=str, choices=choices, literals=arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        inner = _expected(arguments[0], name)
        return attrs.evolve(inner, label=f"list of {inner.label}", many=True)
    if annotation in _LABELS:
        return _Expected(label=_LABELS[annotation], base=annotation)
    raise TypeError(f"option {name!r} has a type that no KEY=VALUE can give: {annotation}")


def _value(field: _Field, texts: list[str], where: str, mend: str) -> Any:
    expected = field.expected
    words = texts[-1:] if not expected.many else [word.strip() for text in texts for word in text.split(",")]
    if expected.many:
        words = [word for word in words if word]
    values = []
    for word in words:
        try:
            values.append(expected.parse(word))
        except (ValueError, KeyError):
            given = "what was given" if field.secret else repr(word)
            unit = field.attribute.metadata.get("unit")
            what = f"one of {', '.join(expected.choices)}" if expected.choices else expected.label
            near = "" if field.secret else did_you_mean(word, expected.choices)
            raise UsageError(
                f"option {field.attribute.name!r} of {where} expects {what}{f' ({unit})' if unit else ''}, "
                f"not {given}.{near}",
                mend=mend,
            ) from None
    return tuple(values) if expected.many else values[0]


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError(text)


def _default(attribute: attrs.Attribute[Any]) -> Any:
    default = attribute.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return None if default.takes_self else default.factory()  # type: ignore[union-attr]
    return default


def _without(message: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        message = message.replace(secret, "***")
    return message
