"""A run that gets SIGKILL at seeded moments ends as one that nothing stopped; all rooms are the real ones.

`benchmarks/pipeline_kills.py` does the same at more moments, on the bundled model.
"""

import json
import signal
import subprocess
import sys

import killed_runs

RECIPE = """\
model: {{name: {model}}}
text:
  search: {texts}/searched.jsonl
  test: {texts}/reported.jsonl
  num_documents: 2
  num_validation_documents: 1
  num_test_documents: 3
search: {{budget: 9, seed: 1}}
finetune: {{batch_size: 2, learning_rate: 1.0e-2, save_every: 2}}
data: {{sources: [{{name: all, text: {texts}/searched.jsonl}}]}}
stages:
  - {{kind: search, name: first, length: 2x}}
  - {{kind: finetune, name: tune, length: 2x, num_steps: 5}}
  - {{kind: search, name: second, length: 4x}}
  - {{kind: readjust, lengths: [1x], budget: 8}}
  - {{kind: evaluate, perplexity: [1x, 4x], sliding_window: true}}
"""
TIMED = {"seconds", "records.jsonl", "progress.json", "checksum"}  # or a hash of what is timed


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(entry) for name, entry in value.items() if name not in TIMED}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def contents(folder):
    """Every file, times left out; factors and weights to the bit."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if path.suffix in (".json", ".jsonl") and not path.name.startswith("factors"):
            lines = content.splitlines() if path.suffix == ".jsonl" else [content]
            found[str(path.relative_to(folder))] = [timeless(json.loads(line)) for line in lines]
        else:
            found[str(path.relative_to(folder))] = content
    return found


def test_killed_at_seeded_moments_it_ends_the_same(tiny_model_folder, texts, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model_folder, texts=texts))
    command = [sys.executable, killed_runs.__file__, str(recipe), str(tmp_path), "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [code for _, code in told["kills"]] == [signal.SIGKILL] * len(killed_runs.KINDS), told
    assert told["code"] == 0
    ours, theirs = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    assert [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)] == []
    assert not [name for name in ours if "/." in f"/{name}"], "temporary files are left"
    losses = theirs["stages/02-tune/training/result.json"][0]["losses"]
    assert len(losses) == 5
    assert len(theirs["stages/05-evaluate-1x/records.jsonl"]) == 6
