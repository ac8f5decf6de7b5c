"""`import ropewalk`: its public names are lazy, typed, documented, and what their modules have."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ropewalk


@pytest.mark.parametrize("name", ropewalk.__all__)
def test_a_public_name_is_importable_and_documented(name):
    value = getattr(ropewalk, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ropewalk.nonsense


def test_dir_lists_the_public_names():
    assert set(ropewalk.__all__) <= set(dir(ropewalk))


def test_type_checkers_see_what_runs():
    """The imports under TYPE_CHECKING and the table of modules name the same."""
    tree = ast.parse(Path(ropewalk.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        (statement.module, alias.name)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert typed == {(ropewalk._MODULE_OF[name], name) for name in ropewalk.__all__}


def test_no_public_name_is_a_subpackage():
    """The import of a subpackage would replace a function of the same name."""
    for name in ropewalk.__all__:
        with pytest.raises(ModuleNotFoundError):
            import_module(f"ropewalk.{name}")


def test_factors_and_settings_load_no_torch():
    program = (
        "import sys, ropewalk; ropewalk.RescaleFactors, ropewalk.FactorSet, ropewalk.RopewalkError;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
