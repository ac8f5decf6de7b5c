"""The README's commands and Python run, and it stays short."""

from docs_pages import ROOT, blocks, run_commands, run_python

from ropewalk.factors.rescale_factors import RescaleFactors

MOST_LINES = 150


def test_it_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_its_commands_run_in_their_order(tmp_path):
    assert len(run_commands("README.md", tmp_path)) >= 4
    assert (tmp_path / "runs/mine/factors.json").is_file()
    assert (tmp_path / "runs/exported/config.json").is_file()


def test_its_python_runs(tmp_path):
    (program,) = blocks("README.md", "python")
    run_python(program, tmp_path)
    assert RescaleFactors.load(tmp_path / "factors.json").target_length == 2048
