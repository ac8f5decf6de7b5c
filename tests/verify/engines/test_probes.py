"""Probes in processes of their own, and their failures."""

import sys

import pytest

from ropewalk.errors import EngineError, ExportError, MissingEngineError
from ropewalk.verify.engines import EngineRequest
from ropewalk.verify.engines.probes import ProbedEngine
from ropewalk.verify.engines.transformers import PYTHON_OF_4, transformers_4_engine, transformers_engine


def test_the_real_engine_runs_in_a_process_of_its_own(tiny_model_folder, tmp_path):
    engine = transformers_engine()
    request = EngineRequest(path=str(tiny_model_folder), sequences=((3, 4, 5),), num_last=2)
    output = engine.run(request)
    assert output.version == engine.version() == __import__("transformers").__version__
    assert output.logits[0].shape == (2, 258)
    assert output.nats[0].shape == (2,)
    (tiny_model_folder / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="exit code"):
        engine.run(request)


def test_a_missing_engine_says_how_to_install_it(tmp_path, monkeypatch):
    script = tmp_path / "probe.py"
    script.write_text("import sys; sys.exit(3)")
    engine = ProbedEngine(name="vllm", install_hint="pip install vllm", script=script, python=sys.executable)
    with pytest.raises(MissingEngineError, match="pip install vllm"):
        engine.version()
    with pytest.raises(MissingEngineError, match="can't be run"):
        ProbedEngine(name="vllm", install_hint="", script=script, python=str(tmp_path / "none")).version()
    monkeypatch.delenv(PYTHON_OF_4, raising=False)
    with pytest.raises(MissingEngineError, match="make transformers4"):
        transformers_4_engine()
    with pytest.raises(MissingEngineError, match="version 4"):
        transformers_4_engine(sys.executable)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "open(folder + '/output.json', 'w').write('{')",
        "open(folder + '/output.json', 'w').write('[]')",
        "open(folder + '/output.json', 'w').write('{}'); open(folder + '/output.safetensors', 'w').write('')",
    ],
)
def test_a_probe_without_valid_output_is_an_error(tmp_path, written):
    script = tmp_path / "probe.py"
    script.write_text(f"import sys; folder = sys.argv[-1]\n{written}")
    engine = ProbedEngine(name="vllm", install_hint="", script=script, python=sys.executable)
    with pytest.raises(EngineError, match="output"):
        engine.run(EngineRequest(path=str(tmp_path), sequences=((3, 4),), num_last=2))


@pytest.mark.parametrize("printed", ["", "hello", "Usage:\nnone"])
def test_a_program_without_a_version_is_not_an_engine(tmp_path, printed):
    script = tmp_path / "probe.py"
    script.write_text(f"print({printed!r})")
    engine = ProbedEngine(name="vllm", install_hint="", script=script, python=sys.executable)
    with pytest.raises(MissingEngineError, match="version"):
        engine.version()


def test_a_killed_engine_is_not_a_mismatch(tmp_path):
    script = tmp_path / "probe.py"
    script.write_text("import os; os.kill(os.getpid(), 9)")
    engine = ProbedEngine(name="vllm", install_hint="", script=script, python=sys.executable)
    with pytest.raises(ExportError, match="signal 9") as raised:
        engine.version()
    assert not isinstance(raised.value, EngineError)
