"""Is a recipe's run, killed again and again, the same to the last bit as one that nothing stopped?

    OMP_NUM_THREADS=1 python benchmarks/pipeline_kills.py --runs FOLDER

`pipeline_kills.yaml`, a small recipe with every kind of stage, runs once without interruption, and twice as
`ropewalk extend` processes that get SIGKILL, process group and all, and are started again by the same
command:

    random   at moments drawn evenly from the uninterrupted run's duration
    aimed    three times in succession while it starts up, then while files are being written

Time is the processor's own, so that a busy machine changes nothing. A moment is found again by what lay in
the folder then (of a stage: trials, checkpoints, records) and by the seconds since. What was lost is what the
killed process had spent since its last trial, checkpoint, record or stage came to the disk. All that is
done is noted in FOLDER; the same command goes on from there, and kills no more than was drawn.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluator import PACKAGES, processor, publish
from ropewalk.store import LOCK, is_lock, write_atomically

RECIPE = Path(__file__).with_suffix(".yaml")
NUM_RANDOM, NUM_STARTS = 10, 3
POLL_S, POLL_NEAR_S = 0.02, 0.0005
TICKS = os.sysconf("SC_CLK_TCK")
DIES_WITH_PARENT = 1  # Linux' PR_SET_PDEATHSIG

# What is waited for in the aimed part, what tells that it is over, and the most processor seconds after it.
TARGETS = [
    ("stages/01-near/.done.json.*", "stages/01-near/done.json", 0.0),
    ("stages/03-tune/training/.checkpoint-2.partial", "stages/03-tune/training/checkpoint-2", 0.8),
    ("stages/03-tune/training/.checkpoint-6.partial", "stages/03-tune/training/checkpoint-6", 0.8),
    ("stages/05-more/training/.model.partial", "stages/05-more/training/model", 0.8),
    ("stages/08-measure/.records.jsonl.*", "stages/08-measure/records.jsonl", 0.0),
    (".result.*.partial", "result", 0.0),
]

Place = tuple[int, int]  # number of the stage (0: none yet), and how much of it is on the disk

# ---------------------------------------------------------------- what a folder shows


def place_of(folder: Path) -> Place:
    """How far a run is, by its files alone."""
    stages = sorted((folder / "stages").glob("*"))
    if not stages:
        return (0, 0)
    stage = stages[-1]
    lines = sum(file.read_bytes().count(b"\n") for file in stage.glob("*.jsonl"))
    checkpoints = [
        int(p.parent.name.rpartition("-")[2]) for p in stage.glob("training/checkpoint-*/manifest.json")
    ]
    written = len(list(stage.glob("*.json"))) + len(list(stage.glob("training/*.json")))
    return (len(stages), lines + max(checkpoints, default=0) + written + (folder / "result.json").is_file())


def describe(folder: Path) -> str:
    """The same in words."""
    stages = sorted((folder / "stages").glob("*"))
    if not stages:
        return "start-up, nothing on disk"
    stage = stages[-1]
    if (stage / "done.json").is_file():
        return f"{stage.name}: done" + (", result written" if (folder / "result.json").is_file() else "")
    steps = [int(p.parent.name.rpartition("-")[2]) for p in stage.glob("training/checkpoint-*/manifest.json")]
    if (stage / "training").is_dir():
        state = "model written" if (stage / "training/model").is_dir() else "training"
        return f"{stage.name}: {state}, checkpoint {max(steps, default='none')}"
    trials = sum(file.read_bytes().count(b'"index"') for file in stage.glob("journal*.jsonl"))
    records = [file.read_bytes().count(b"\n") for file in stage.glob("records.jsonl")]
    return f"{stage.name}: {f'{records[0]} records' if records else f'{trials} trials'}"


def half_written(folder: Path) -> list[str]:
    """Hidden files and folders, which no finished run has."""
    found = [path.relative_to(folder) for path in folder.rglob(".*") if not is_lock(path.name)]
    return sorted(map(str, found))


def contents(folder: Path) -> dict[str, Any]:
    """Every file's content, times left out; by its place in the folder."""
    return {str(p.relative_to(folder)): content_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def content_of(path: Path) -> Any:
    """JSON without seconds, and without the hashes of files that hold seconds; else a hash."""
    if path.name.startswith("factors") or path.suffix not in (".json", ".jsonl"):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    values = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else [
        json.loads(path.read_bytes())
    ]  # fmt: skip
    return timeless(values)


def timeless(value: Any) -> Any:
    timed = {"seconds", "records.jsonl", "progress.json", "checksum"}
    if isinstance(value, dict):
        return {name: timeless(entry) for name, entry in value.items() if name not in timed}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


# ---------------------------------------------------------------- a process


class Session:
    """One `ropewalk extend` process in a group of its own; it dies with this program too."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.folder = folder
        self.seen = place_of(folder)
        self.seen_at = 0.0  # processor seconds when `seen` was reached
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            command(folder),
            stdout=self._log,
            stderr=self._log,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )

    def seconds(self) -> float:
        """Of the processor, so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def watch(self, pause: float = POLL_S) -> Iterator[tuple[float, Place]]:
        """Processor seconds and place, again and again until it ends by itself."""
        while not self.has_ended():
            seconds, place = self.seconds(), place_of(self.folder)
            if place != self.seen:
                self.seen, self.seen_at = place, seconds
            yield seconds, place
            time.sleep(pause)

    def has_ended(self) -> bool:
        """Whether nothing but its seconds is left of it; `finish` takes those away too."""
        info = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return info is not None

    def finish(self) -> float:
        """Its processor seconds; it must have ended well."""
        seconds = self.seconds()
        code = self._process.wait()
        self._log.close()
        if code != 0:
            raise SystemExit(f"{' '.join(command(self.folder))} ended with {code}: see {self._log.name}")
        return seconds

    def kill(self) -> bool:
        """Whether that is how it ended; it may have ended well a moment before."""
        os.killpg(self._process.pid, signal.SIGKILL)
        info = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        if info is None or info.si_status != signal.SIGKILL:
            return False
        self._process.wait()
        self._log.close()
        return True


Reached = Callable[[Session, float, Place], bool]  # from its processor seconds and place: kill it now?
Wait = tuple[str, Reached, float]  # what for, in words; and seconds between looks


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "ropewalk", "extend", str(RECIPE), "--out", str(folder)]


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DIES_WITH_PARENT, signal.SIGKILL)


def wait_until_free(folder: Path) -> None:
    """A process of a benchmark that was itself killed dies a moment later."""
    lock = folder / LOCK
    while lock.is_file():
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.1)


# ---------------------------------------------------------------- the three runs


class Notes:
    """What was done, on disk as it is done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}

    def write(self, **values: Any) -> None:
        self.values |= values
        write_atomically(self._path, json.dumps(self.values, indent=1).encode() + b"\n")


def run_whole(runs: Path, notes: Notes) -> None:
    """The uninterrupted run, after one that fills the token cache; when it reached what."""
    for name in ("warm-up", "whole"):
        if name in notes.values:
            continue
        folder = runs / name
        if folder.exists():
            raise SystemExit(
                f"{folder} was begun by a benchmark that was stopped: remove it, and start again."
            )
        session = Session(folder, runs / f"{name}.log")
        timeline: list[tuple[float, Place]] = []
        for seconds, place in session.watch():
            if name == "warm-up" and place[0] > 0:
                session.kill()
                notes.write(**{name: {"seconds": seconds}})
                break
            if not timeline or timeline[-1][1] != place:
                timeline.append((seconds, place))
        else:
            notes.write(**{name: {"seconds": session.finish(), "timeline": timeline}})


def kill_randomly(runs: Path, notes: Notes, seed: int) -> None:
    """Kill at moments of the uninterrupted run, one after the other."""
    whole = notes.values["whole"]
    rng = random.Random(f"random {seed}")
    moments = sorted(rng.uniform(0, whole["seconds"]) for _ in range(NUM_RANDOM))
    started = next(seconds for seconds, place in whole["timeline"] if place[0] > 0)

    def is_reached(moment: float) -> Reached:
        at, place = next((s, tuple(p)) for s, p in reversed(whole["timeline"]) if s <= moment)

        def reached(session: Session, seconds: float, now: Place) -> bool:
            if place[0] == 0:
                return seconds >= moment
            # It may have begun there: then it is at work once it has started up.
            return (
                now >= place
                and seconds >= max(session.seen_at if now == place else 0.0, started) + moment - at
            )

        return reached

    kill_at(runs / "random", notes, [(f"{m:.1f} s", is_reached(m), POLL_S) for m in moments])


def kill_aimed(runs: Path, notes: Notes, seed: int) -> None:
    """Kill in start-ups, and in the middle of writing."""
    rng = random.Random(f"aimed {seed}")
    started = next(seconds for seconds, place in notes.values["whole"]["timeline"] if place[0] > 0)
    waits: list[Wait] = []
    for _ in range(NUM_STARTS):
        moment = rng.uniform(0.05, 1.0) * started
        waits.append((f"start-up, {moment:.1f} s", after_start(moment), POLL_S))
    for pattern, after, most in TARGETS:
        waits.append((pattern, sighting(runs / "aimed", pattern, after, rng.uniform(0, most)), POLL_NEAR_S))
    kill_at(runs / "aimed", notes, waits)


def after_start(moment: float) -> Reached:
    return lambda session, seconds, place: seconds >= moment


def sighting(folder: Path, pattern: str, after: str, delay: float) -> Reached:
    """A while after a name is seen, or what it becomes."""
    seen_at: list[float] = []

    def reached(session: Session, seconds: float, place: Place) -> bool:
        if not seen_at and (next(folder.glob(pattern), None) or (folder / after).exists()):
            seen_at.append(seconds)
        return bool(seen_at) and seconds >= seen_at[0] + delay

    return reached


def kill_at(folder: Path, notes: Notes, waits: list[Wait]) -> None:
    """A session a moment, which is killed there; then one more to the end."""
    part = folder.name
    kills = list(notes.values.get(part, {}).get("kills", []))
    ended = "seconds" in notes.values.get(part, {})
    while not ended:
        wait_until_free(folder)
        session = Session(folder, folder.with_suffix(".log"))
        label, reached, pause = (
            waits[len(kills)] if len(kills) < len(waits) else ("", lambda *_: False, POLL_S)
        )
        for seconds, place in session.watch(pause):
            if reached(session, seconds, place) and session.kill():
                kills.append(
                    {
                        "drawn": label,
                        "place": describe(folder),
                        "seconds": seconds,
                        "lost_s": seconds - session.seen_at,
                        "half_written": half_written(folder),
                    }
                )
                notes.write(**{part: {"kills": kills}})
                print(f"{part}: killed at {kills[-1]}", file=sys.stderr)
                break
        else:
            ended = True
            notes.write(**{part: {"kills": kills, "seconds": session.finish()}})


def refused_beside(runs: Path, notes: Notes) -> None:
    """A second process on a folder that is in use."""
    if "beside" in notes.values:
        return
    folder = runs / "whole"
    with (folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        beside = subprocess.run(command(folder), capture_output=True, text=True, check=False)
    (folder / LOCK).unlink()
    said = beside.stderr.replace(str(runs), "FOLDER").strip().splitlines()
    notes.write(beside={"code": beside.returncode, "said": said})


# ---------------------------------------------------------------- comparison and page


def compare(runs: Path, part: str) -> dict[str, Any]:
    """What is alike, by kind; `differ` names every file that is not."""
    ours, theirs = contents(runs / part), contents(runs / "whole")
    differ = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    kinds = {kind: [name for name in theirs if kind_of(name) == kind] for kind in KINDS}
    return {
        "kinds": {
            kind: {
                "files": len(names),
                "values": sum(num_values(theirs[name]) for name in names),
                "equal": not set(names) & set(differ),
            }
            for kind, names in kinds.items()
        },
        "differ": differ,
        "left": half_written(runs / part),
    }


KINDS: dict[str, Callable[[str], bool]] = {
    "factors, bit for bit": lambda name: Path(name).name.startswith("factors"),
    "the result's other files": lambda name: name.startswith("result/"),
    "journals, every trial": lambda name: Path(name).name.startswith("journal"),
    "trainings, the loss of every step": lambda name: name.endswith("training/result.json"),
    "tuned weights, optimizers, generators": lambda name: name.endswith(".safetensors"),
    "evaluation records": lambda name: name.endswith("records.jsonl") or name == "result.json",
    "everything else": lambda name: True,
}


def num_values(content: Any) -> int:
    """Trials, steps or records of a file; of others none."""
    if not isinstance(content, list):
        return 0
    if len(content) == 1 and "losses" in content[0]:
        return len(content[0]["losses"])
    return sum("index" in entry or "metric" in entry for entry in content)


def kind_of(name: str) -> str:
    return next(kind for kind, is_it in KINDS.items() if is_it(name))


def table(result: dict[str, Any]) -> str:
    lines = [
        "| run | killed at | processor s of the process | lost, s | half-written then |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for part in ("random", "aimed"):
        for kill in result[part]["kills"]:
            half = ", ".join(f"`{Path(name).name}`" for name in kill["half_written"]) or "nothing"
            lines.append(
                f"| {part}: {kill['drawn'].replace('*', '...')} | {kill['place']} | {kill['seconds']:.1f} "
                f"| {kill['lost_s']:.1f} | {half} |"
            )
    lines += [
        "",
        "| compared with the uninterrupted run | files | random | aimed |",
        "| --- | ---: | --- | --- |",
    ]
    for kind in KINDS:
        found = [result[part]["compared"]["kinds"][kind] for part in ("random", "aimed")]
        told = ["equal" if each["equal"] else "DIFFERENT" for each in found]
        values = f" ({found[0]['values']})" if found[0]["values"] else ""
        lines.append(f"| {kind}{values} | {found[0]['files']} | {told[0]} | {told[1]} |")
    left = [len(result[part]["compared"]["left"]) for part in ("random", "aimed")]
    return "\n".join([*lines, f"| temporary files left | | {left[0]} | {left[1]} |"])


def page(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    kills = [kill for part in ("random", "aimed") for kill in result[part]["kills"]]
    beside = result["beside"]
    differ = [name for part in ("random", "aimed") for name in result[part]["compared"]["differ"]]
    return f"""# A pipeline killed {len(kills)} times, {result["date"]}

`{result["command"]}` on {result["processor"]}, one thread, Python {result["python"]}, {versions}.

The recipe is `pipeline_kills.yaml`: uninterrupted, it takes {result["whole"]["seconds"]:.0f} processor
seconds, {result["warm-up"]["seconds"]:.0f} of them to start up. {len(result["random"]["kills"])} kills at
random moments, {len(result["aimed"]["kills"])} aimed at start-ups and at moments of writing;
{sum(kill["lost_s"] for kill in kills):.0f} s of work were lost in all, start-ups counted in. Every file is
compared, without the times in it: {"nothing differs" if not differ else ", ".join(differ)}.

A second process on a folder in use ends with code {beside["code"]}: {beside["said"][-1]}

{table(result)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="a folder for the runs and the notes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--name", default="pipeline-kills", help="of the result files")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    notes = Notes(args.runs / "notes.json")
    run_whole(args.runs, notes)
    kill_randomly(args.runs, notes, args.seed)
    kill_aimed(args.runs, notes, args.seed)
    refused_beside(args.runs, notes)
    result = {
        "date": date.today().isoformat(),
        "command": f"python benchmarks/{Path(__file__).name} --runs FOLDER --seed {args.seed}",
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "seed": args.seed,
        **notes.values,
    }
    for part in ("random", "aimed"):
        result[part] = {**notes.values[part], "compared": compare(args.runs, part)}
    publish(args.name, result, page(result), table(result))


if __name__ == "__main__":
    main()
