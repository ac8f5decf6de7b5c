"""Options are the fields of settings classes: names, types, ranges, defaults, descriptions."""

from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from ropewalk.cli import search as search_command
from ropewalk.cli.from_settings import from_settings, option, option_name
from ropewalk.errors import SettingError
from ropewalk.search.settings import SearchSettings
from ropewalk.settings import Settings
from ropewalk.text.settings import TextSplit


class Shape(Settings):
    name: str = Field(title="MODEL", description="Which one.")
    num_knots: int | None = Field(default=None, ge=2, le=9, description="How many.")
    kind: Literal["full", "spline"] = Field(default="full", description="What kind.")
    monotone: bool = Field(default=True, description="In order.")
    is_copy: bool = Field(default=False, description="A copy.")
    weight: float = Field(default=0.5, gt=0, description="How heavy.", json_schema_extra={"option": "--w"})
    more: dict[str, int] = Field(default_factory=dict, description="No option.")


def run(*arguments, defaults=None):
    app, made = typer.Typer(rich_markup_mode=None), []

    @app.command()
    @from_settings(defaults, shape=Shape)
    def command(*, shape: Shape, other: int = 1) -> None:
        made.append((shape, other))

    ended = CliRunner().invoke(app, list(arguments))
    return ended, made[0] if made else None


def test_fields_that_are_not_given_have_their_default():
    _, (shape, other) = run("mine", "--other", "3")
    assert (shape, other) == (Shape(name="mine"), 3)
    assert shape.given() == {"name": "mine"}


def test_options_are_named_and_typed_by_the_fields():
    _, (shape, _) = run(
        "mine", "--num-knots", "3", "--kind", "spline", "--no-monotone", "--is-copy", "--w", "2"
    )
    assert shape == Shape(name="mine", num_knots=3, kind="spline", monotone=False, is_copy=True, weight=2)


def test_help_of_a_single_option_has_its_default_once():
    app = typer.Typer(rich_markup_mode=None)

    @app.command()
    def command(kind: Annotated[str, option(Shape, "kind")] = "full") -> None:
        pass

    assert CliRunner().invoke(app, ["--help"]).output.count("[default: full]") == 1


def test_a_command_may_have_other_defaults():
    assert run("mine", defaults={"weight": 2})[1][0].weight == 2
    assert run("mine", "--w", "3", defaults={"weight": 2})[1][0].weight == 3


def test_help_has_description_default_range_and_choices():
    text = " ".join(run("--help")[0].output.split())
    for noun in (
        "Which one.",
        "MODEL",
        "How many.",
        "2<=x<=9",
        "full|spline",
        "[default: full]",
        "--no-monotone",
    ):
        assert noun in text
    assert "more" not in text


@pytest.mark.parametrize(
    ("arguments", "noun"), [(["--kind", "splin"], "'spline'"), (["--w", "0"], "--w"), (["--w", "nan"], "--w")]
)
def test_a_wrong_value_names_the_option(arguments, noun):
    ended, _ = run("mine", *arguments)
    assert isinstance(ended.exception, SettingError)
    assert noun in str(ended.exception)


def test_every_setting_of_a_search_has_an_option_and_no_other():
    command = typer.main.get_command_from_info(
        typer.models.CommandInfo(name="search", callback=search_command.search),
        pretty_exceptions_short=True,
        rich_markup_mode=None,
    )
    options = {name for parameter in command.params for name in parameter.opts}
    fields = {**SearchSettings.model_fields, **TextSplit.model_fields}
    del fields["strategy_settings"]
    assert {option_name(name, field) for name, field in fields.items()} <= options
