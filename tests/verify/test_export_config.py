"""An export's configuration is compared with the factors."""

import json

import pytest
from verified_exports import exported

from ropewalk.errors import RopewalkError
from ropewalk.export import Served
from ropewalk.export.manifest import read_folded
from ropewalk.verify.export_config import check_configuration


@pytest.mark.parametrize("value", [10**60, "8.0", [8.0], None, True, {}, float("nan")])
def test_a_configuration_of_another_type_is_wrong(tiny_model_folder, tmp_path, value):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"]["factor"] = value
    (folder / "config.json").write_text(json.dumps(config))
    assert not check_configuration(folder, Served.of(factor_set, "pinned")).is_right


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[" * 100_000),
        ("config.json", "[]"),
        ("ropewalk.json", "[" * 100_000),
        *(
            ("ropewalk.json", {"folded": folded})
            for folded in (1, [], {"ours": 1}, {"ours": "x", "engine": 1}, {"ours": 10**400, "engine": 1})
        ),
    ],
)
def test_an_invalid_file_is_an_error_of_one_line(tiny_model_folder, tmp_path, name, content):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    if isinstance(content, dict):
        content = json.dumps({**json.loads((folder / name).read_text()), **content})
    (folder / name).write_text(content)
    with pytest.raises(RopewalkError) as raised:
        read_folded(folder)
        check_configuration(folder, Served.of(factor_set, "pinned"))
    assert "\n" not in str(raised.value)
