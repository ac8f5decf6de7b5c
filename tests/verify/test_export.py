"""`verify_export` finds engine, mode and base model by the paths that it is given."""

import json

import pytest
from verified_exports import exported

from ropewalk.errors import ExportError, SettingError
from ropewalk.verify import export
from ropewalk.verify.export import verify_export


@pytest.fixture
def verified(tiny_model_folder, tmp_path, engine, monkeypatch):
    """The export's folder, and the function that verifies it in the test's process."""
    monkeypatch.setattr(export, "_engine", lambda _name, _python: engine)
    folder, factor_set = exported(tiny_model_folder, tmp_path, "switching")
    factor_set.save(tmp_path / "factors.json")
    (tmp_path / "text.txt").write_text(
        "".join(f"line {line}: {line * 7 % 11} words. " for line in range(200))
    )

    def verify(**options):
        return verify_export(
            folder,
            str(tiny_model_folder),
            tmp_path / "factors.json",
            text=str(tmp_path / "text.txt"),
            **options,
        )

    return folder, verify


def test_an_export_is_right_in_its_stated_mode_until_it_is_changed(verified):
    folder, verify = verified
    right = verify(lengths=[16, "1x", 65])
    assert right.is_right
    assert right.served.mode == "switching"
    assert {check.length for check in right.checks} >= {16, 64, 65}
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"]["long_factor"][-1] += 0.1
    (folder / "config.json").write_text(json.dumps(config))
    assert not verify(lengths=[16, "1x", 65]).is_right


def test_an_unknown_engine_is_refused(tiny_model_folder, tmp_path):
    with pytest.raises(SettingError, match="sglang"):
        verify_export(tiny_model_folder, "scale-model", tmp_path / "factors.json", engine="sglang")


def test_a_path_without_an_export_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"config\.json"):
        verify_export(tmp_path, "scale-model", tmp_path / "factors.json")
