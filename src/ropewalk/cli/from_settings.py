"""Command-line options from settings classes: an option is a field, with its description, range and default.

`ropewalk search` has a parameter `settings: SearchSettings`, and the decorator
`@from_settings(settings=SearchSettings)` replaces it by an option for each field. A required field becomes an
argument. A field whose value is a dictionary has no option; recipes and Python set it.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from ropewalk.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


def from_settings(
    defaults: Mapping[str, Any] | None = None, **classes: type[Settings]
) -> Callable[[Command], Command]:
    """Replace parameters of a command by options, and give the command the settings that they make.

    Args:
        defaults: values for fields that are not given on the command line, where this command has others.
        classes: the settings class of each parameter.

    Raises:
        SettingError: when the command runs, from the settings.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        fields: dict[str, tuple[str, str]] = {}  # option's parameter: (command's parameter, field)
        parameters = []
        for parameter in signature.parameters.values():
            if parameter.name not in classes:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            for name, field in classes[parameter.name].model_fields.items():
                kind = value_type(field)
                if kind is None:
                    continue
                fields[f"{parameter.name}_{name}"] = parameter.name, name
                parameters.append(_parameter(f"{parameter.name}_{name}", name, field, kind, defaults or {}))

        @functools.wraps(command)
        def run(**values: Any) -> Any:
            given: dict[str, dict[str, Any]] = {
                name: {
                    field: value
                    for field, value in (defaults or {}).items()
                    if field in settings.model_fields
                }
                for name, settings in classes.items()
            }
            for option, (name, field) in fields.items():
                value = values.pop(option)
                if value is not None:
                    given[name][field] = value
            made = {
                name: classes[name].checked(found, _names(classes[name])) for name, found in given.items()
            }
            return command(**values, **made)

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run  # type: ignore[return-value]

    return decorate


def _names(settings: type[Settings]) -> dict[str, str]:
    """The option of each field, for messages."""
    return {name: option_name(name, field) for name, field in settings.model_fields.items()}


def option(settings: type[Settings], name: str) -> Any:
    """The option of one field, for commands that take only some of a class."""
    return _option(name, settings.model_fields[name], {})


def option_name(name: str, field: FieldInfo) -> str:
    """`--num-documents` for `num_documents`, unless the field names its option."""
    extra = field.json_schema_extra
    named = extra.get("option") if isinstance(extra, dict) else None
    return str(named or f"--{name.replace('_', '-')}")


def value_type(field: FieldInfo) -> type | None:
    """How a field is written on the command line; None where it can't be.

    Where several types are possible, the text is passed on and the settings decide.
    """
    kinds = {
        str if get_origin(kind) is Literal else kind
        for kind in _members(field.annotation)
        if kind is not type(None)
    }
    if any(kind not in (bool, int, float, str) for kind in kinds):
        return None
    return kinds.pop() if len(kinds) == 1 else str


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _parameter(
    parameter: str, name: str, field: FieldInfo, kind: type, defaults: Mapping[str, Any]
) -> inspect.Parameter:
    if field.is_required():
        info: Any = typer.Argument(metavar=field.title or name.upper(), help=field.description)
        annotation: Any = Annotated[kind, info]
        return inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
    annotation = Annotated[kind | None, _option(name, field, defaults)]
    return inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _option(name: str, field: FieldInfo, defaults: Mapping[str, Any]) -> Any:
    kind, flag = value_type(field), option_name(name, field)
    default = defaults.get(name, field.default)
    if kind is bool and default:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    if kind is bool:
        shown = f" [default: {option_name(name, field).removeprefix('--')}]" if default else ""
    else:
        shown = "" if default is None else f" [default: {default}]"
    ranges = {} if kind not in (int, float) else _range(field)
    return typer.Option(
        flag,
        help=f"{field.description}{shown}",
        metavar=None if kind is bool else field.title or _choices(field),
        show_default=False,  # `help` has it
        **ranges,
    )


def _range(field: FieldInfo) -> dict[str, Any]:
    """`min` and `max`, where the field has them."""
    found = {}
    for rule in field.metadata:
        for ours, theirs in (("ge", "min"), ("le", "max")):
            if hasattr(rule, ours):
                found[theirs] = getattr(rule, ours)
    return found


def _choices(field: FieldInfo) -> str | None:
    """`full|spline|longrope2`, where a field has a fixed list of values."""
    if get_origin(field.annotation) is not Literal:
        return None
    return "|".join(map(str, get_args(field.annotation)))
